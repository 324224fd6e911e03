// Testpmd: DPDK's packet forwarder, a process that is spoken to by its prompt. With virtio_user devices it is
// a guest that needs no virtual machine; with net_vhost ones it is the back-end that Sluice is compared with.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "test/guest/console.h"
#include "test/support/net_ns.h"

namespace sluice::test {

// One `--vdev net_virtio_userN`: a guest's NIC.
struct VirtioUser {
  std::string socket;
  std::string mac = "52:54:00:00:00:01";
  bool server = false;  // it listens, and the back-end connects
  bool packed = false, in_order = false, mrg_rxbuf = true, vectorized = false;
  std::uint32_t queues = 1;
  std::uint32_t queue_size = 256;
};
std::string vdev(const VirtioUser& device, std::uint32_t index = 0);
std::string vhost_vdev(const std::string& socket, std::uint32_t index = 0, std::uint32_t queues = 1);

struct TestpmdOptions {
  std::string name = "guest";  // of its files and its log
  std::vector<std::string> vdevs;
  std::uint32_t cpu = 0;         // everything it does, it does there
  std::uint32_t forwarders = 1;  // threads that forward
  std::string mode = "io";       // io, mac, macswap, rxonly, txonly ...
  enum class Pages : std::uint8_t { kSmall, kHuge } pages = Pages::kSmall;
  std::uint32_t memory_mb = 128;
  std::uint32_t queues = 1, ring = 256;  // of each port
  std::uint32_t mbufs = 8192;
  std::vector<std::string> eal, more;  // further arguments, before and behind the `--`
  const NetNs* ns = nullptr;           // where it runs; none: here
};

class Testpmd {
 public:
  // Why there is none on this machine; empty: there is.
  static std::string why_none();
  // Returns when the process is there; ready() when it can be spoken to. (A virtio_user that is a server
  // waits for its back-end in between.)
  static Result<std::unique_ptr<Testpmd>> start(const TestpmdOptions& options);

  Result<void> ready();
  // A line for its prompt, and what it says until the next prompt.
  std::string command(const std::string& line);
  struct Stats {
    std::uint64_t rx_packets = 0, tx_packets = 0, rx_bytes = 0, tx_bytes = 0, tx_errors = 0;
    std::uint64_t rx_per_second = 0;  // since it was asked last, by its own clock
  };
  Stats stats(std::uint32_t port = 0);
  int quit();  // the exit status
  int kill() { return console_->kill(); }
  bool running() const { return console_->running(); }
  pid_t pid() const { return console_->pid(); }
  std::string log() const { return console_->text(); }

 private:
  explicit Testpmd(std::unique_ptr<Console> console) : console_(std::move(console)) {}
  std::unique_ptr<Console> console_;
};

}  // namespace sluice::test
