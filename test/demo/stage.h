// Stage: two namespaces, the wire between them, a config, the daemon, and who sends. Gone with it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "test/demo/app.h"
#include "test/support/daemon.h"
#include "test/support/live_frames.h"
#include "test/support/net_ns.h"
#include "test/support/veth.h"

namespace sluice::demo {

// Who works where. The generator's CPU also chooses the veth's RX queue and does the kernel's receive work.
struct Layout {
  unsigned generator_cpu = 0;  // and ping
  unsigned receiver_cpu = 0;   // worker and apps; the thin flow to the shared queue is sent from here
  std::uint32_t queues = 2;    // so many that the two CPUs send to different ones, where there are two
  std::uint64_t packets_per_second = 0;
  bool one_cpu() const { return generator_cpu == receiver_cpu; }

  static Layout of_this_machine();
};

// The promise is about this rate: 2,000,000 packets/s, or $SLUICE_DEMO_RATE where the promises are to be
// checked on a machine whose speed is not (`./dev check`).
std::uint64_t promised_rate();
inline constexpr std::uint64_t kOneCpuRate = 100'000;
inline constexpr std::uint64_t kSharedRate = 20'000;

class Stage {
 public:
  static Result<std::unique_ptr<Stage>> create(std::shared_ptr<test::TempFolder> folder);
  Stage(const Stage&) = delete;

  const Layout& layout() const { return layout_; }
  const test::NetNs& nic_ns() const { return nic_ns_; }
  const test::NetNs& wire_ns() const { return wire_ns_; }
  const test::VethPair& pair() const { return pair_; }
  std::string nic_address() const { return pair_.options().nic_ip; }
  std::string owned_queue() const;  // "nic0:0"

  test::Daemon& daemon() { return daemon_; }
  Result<void> start_daemon() { return daemon_.start(); }
  // Does an XDP program hang on the NIC?
  bool has_xdp_program() const;

  // An app on port `owned` or `shared`, attached.
  Result<App> start_app(const std::string& port, std::uint64_t first_sequence = Tally::kAny) const;
  std::string socket_of(const std::string& port) const { return daemon_.path(port + ".sock"); }

  // UDP for port `owned` at the full rate from the generator's CPU, and for `shared` a thin flow from the
  // receiver's. Both number their packets from 0 on.
  test::LiveFrames& full_flow() { return *full_flow_; }
  test::LiveFrames& thin_flow() { return *thin_flow_; }

 private:
  Stage(test::NetNs nic_ns, test::NetNs wire_ns, std::shared_ptr<test::TempFolder> folder)
      : nic_ns_(std::move(nic_ns)), wire_ns_(std::move(wire_ns)), daemon_(nic_ns_, std::move(folder)) {}
  Result<void> make_flows();
  void write_config();

  Layout layout_ = Layout::of_this_machine();
  test::NetNs nic_ns_, wire_ns_;
  test::VethPair pair_;
  std::unique_ptr<test::LiveFrames> full_flow_, thin_flow_;
  test::Daemon daemon_;
};

}  // namespace sluice::demo
