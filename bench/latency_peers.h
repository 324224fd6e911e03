// What `latency_bench` puts behind the wire: an echo, and what carries its packets.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"
#include "test/support/frame.h"
#include "test/support/veth.h"

namespace sluice::bench {

enum class EchoKind : std::uint8_t {
  kKernel,      // a UDP socket of the host
  kApp,         // a program on libsluice
  kGuest,       // a driver that sleeps until it is called, as a virtual machine's does
  kGuestPolls,  // DPDK's virtio_user, which never sleeps
  kTap,         // a UDP socket of the host, behind a tap
  kDpdk         // DPDK's net_af_xdp, which never sleeps; no Sluice
};
inline constexpr const char* kEchoNames[] = {"kernel", "app", "guest", "guest_polls", "tap", "dpdk"};

struct EchoSetup {
  EchoKind kind = EchoKind::kKernel;
  // The client and the programs on CPU 0; Sluice's worker, DPDK's loop on the NIC and the kernel's echo on
  // CPU 1. Else all run where the kernel lets them.
  bool pinned = false;
  std::string idle;           // of Sluice's worker; "": no Sluice
  std::uint32_t spin_us = 0;  // of the app
  std::string name() const { return kEchoNames[static_cast<std::size_t>(kind)]; }
  bool is_sluice() const { return !idle.empty(); }
};

class EchoPeer {
 public:
  virtual ~EchoPeer() = default;
  // CPU time so far, of the daemon and of the echo; DPDK's polling thread counts as the echo.
  virtual std::uint64_t daemon_cpu_ns() = 0;
  virtual std::uint64_t echo_cpu_ns() = 0;
  // All counters of Sluice; none without it.
  virtual nlohmann::json counters() = 0;
};

// The two namespaces that a pair of links connects, with all addresses that the echoes and the load need. No
// ARP: every neighbour is told.
class EchoGround {
 public:
  static Result<std::unique_ptr<EchoGround>> create();

  // Ready when it answers the first request. An error says why it cannot be measured here.
  Result<std::unique_ptr<EchoPeer>> start(const EchoSetup& setup);

  std::string ip(EchoKind kind) const;
  // What the load is made of: a datagram from an address that nobody has, so that answers end at the wire.
  test::Frame load_frame(EchoKind kind) const;
  std::uint64_t answered() const;  // packets that came to the wire's end, since it was made
  const test::NetNs& wire() const { return wire_; }
  const test::VethPair& pair() const { return pair_; }

 private:
  EchoGround(test::NetNs nic, test::NetNs wire) : nic_(std::move(nic)), wire_(std::move(wire)) {}
  Result<void> set_up_addresses();
  Result<std::unique_ptr<EchoPeer>> start_echo(const EchoSetup& setup);

  test::NetNs nic_, wire_;
  test::VethPair pair_;
};

}  // namespace sluice::bench
