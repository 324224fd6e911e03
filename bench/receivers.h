// The receivers that `app_bench` puts on the same wire: Sluice's app, and its peers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "bench/bare_af_xdp.h"
#include "bench/measure.h"

namespace sluice::bench {

inline constexpr std::uint16_t kUdpPort = 5000;
// Of the sockets of Sluice and of bare AF_XDP alike: 5 ms of the wire, for that long may the kernel's own
// threads take the receiver's CPU.
inline std::uint32_t ring_entries = 16384;
inline std::string worker_idle = "awake";  // bare AF_XDP's loop does not let the core halt either
// What Sluice's queues have when nobody says otherwise (docs/config.md), and the most that DPDK's can have.
inline constexpr std::uint32_t kDefaultRingEntries = 4096;

// All are made inside the NIC's namespace. They run where the calling thread may.
Result<std::unique_ptr<Receiver>> open_bare_af_xdp(const std::string& netdev,
                                                   const BareOptions& options);  // busy loop
Result<std::unique_ptr<Receiver>> open_udp();  // recvmmsg of 64 on a socket of the host
Result<std::unique_ptr<Receiver>> open_tpacket(const std::string& netdev);  // TPACKET_V3, blocks of 1 MiB

// The real daemon and an app on libsluice that sleeps when there is nothing, both where the calling thread
// may run.
enum class QueueUse { kOwned, kShared };
enum class Settings {
  kTuned,    // worker on the receiver's CPU, ring_entries, worker_idle
  kDefault,  // nothing but what a config must say
};
struct SluiceAppOptions {
  QueueUse use = QueueUse::kShared;
  Settings settings = Settings::kTuned;
  std::string extra_rules;  // TOML that goes behind the one rule for kUdpPort
};
class SluiceApp : public Receiver {
 public:
  // `daemon`: path of sluiced.
  static Result<std::unique_ptr<SluiceApp>> open(const std::string& daemon, const std::string& netdev,
                                                 const test::NetNs& ns, const SluiceAppOptions& options);
  // All counters of `sluicectl show counters`.
  virtual nlohmann::json counters() = 0;
  virtual int daemon_pid() const = 0;
};

// testpmd in rxonly mode on net_af_xdp, a process of its own on the receiver's CPU: runs while `live` sends,
// then is asked what it got.
Result<Round> measure_dpdk(const test::NetNs& ns, const std::string& netdev, test::LiveFrames& live);

}  // namespace sluice::bench
