// SystemTest: a NIC (nic0) and a wire (wire0) in namespaces of their own, and a daemon on the NIC. At the end
// of every test the daemon, if it still runs, must end cleanly and leave a NIC without XDP; no check of it
// may have failed.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "test/support/daemon.h"
#include "test/support/eventually.h"
#include "test/support/live_frames.h"
#include "test/support/net_ns.h"
#include "test/support/veth.h"
#include "test/system/app.h"
#include "test/system/ends.h"
#include "test/system/tally.h"

namespace sluice::test {

// What a test cannot go on without: it ends there, failed, and what it has made goes with it.
void need(bool had, const std::string& what);
template <typename T>
T need(Result<T> made) {
  need(made.has_value(), made ? "" : made.error().message);
  return std::move(*made);
}

// Pieces of a config.
std::string nic_table(const std::string& name = "nic0", const std::string& more = "");
// Its socket: @/NAME.sock; it may send from nic0's own address unless `more` has a `mac`.
std::string app_port(const std::string& name, const std::string& more = "");
std::string rule(const std::string& match, const std::string& to, const std::string& more = "");
std::string udp_rule(std::uint16_t udp_port, const std::string& to, const std::string& more = "");

// A program and an endless flow to it, of which nothing may be lost whatever else happens.
class Stream {
 public:
  Stream(std::unique_ptr<App> app, std::unique_ptr<LiveFrames> flow);  // starts it
  App& app() { return *app_; }
  // Ends the flow. Every packet came once and unchanged, and there were some while the test did what it did.
  void expect_nothing_lost();

 private:
  std::unique_ptr<App> app_;
  std::unique_ptr<LiveFrames> flow_;
};

class SystemTest : public ::testing::Test {
 protected:
  explicit SystemTest(VethOptions links = {}) : links_(std::move(links)) {}
  void SetUp() override;
  void TearDown() override;

  void start(const std::string& config);  // FAILs with the daemon's words
  NetNs& nic_ns() { return *nic_ns_; }
  NetNs& wire_ns() { return *wire_ns_; }
  VethPair& pair() { return *pair_; }
  Daemon& daemon() { return *daemon_; }
  Tap wire_tap() { return Tap(*wire_ns_, pair_->wire_ifindex()); }
  Tap nic_tap() { return Tap(*nic_ns_, pair_->nic_ifindex()); }
  void make_wire();  // once more, after it was removed
  // Another link between the same namespaces: nic1 and wire1, 10.78.0.1 and 10.78.0.2.
  VethPair make_second_wire();
  bool nic_has_xdp();  // a program is attached

  // What is sent to the NIC for a port whose rule is `udp_port`.
  Frame frame_to(std::uint16_t udp_port, std::size_t frame_bytes = 60);
  // A program on the port's socket that expects `sequences` frames to `udp_port`.
  std::unique_ptr<App> attach(const std::string& port, std::uint16_t udp_port, std::uint64_t sequences,
                              std::size_t frame_bytes = 60);
  // A generator of such frames, not yet started; its numbers begin at `first`. With two queues its `cpu` is
  // its queue.
  struct FlowOptions {
    std::uint64_t count = 0;  // 0: until it is stopped
    const std::atomic<std::uint64_t>* allowed = nullptr;
    std::size_t frame_bytes = 60;
    std::optional<std::uint32_t> cpu;
    std::uint64_t first = 0;
    std::uint64_t packets_per_second = 0;
  };
  std::unique_ptr<LiveFrames> flow(std::uint16_t udp_port, const FlowOptions& options);
  // To the program of `port`, by RX queue `queue` where there are two.
  Stream stream_to(const std::string& port, std::uint16_t udp_port, std::uint16_t queue = 0);
  // Sends `count` frames, never more than a veth queues ahead of `ended()`: how many of them have come to an
  // end.
  void send_in_steps(std::uint16_t udp_port, const FlowOptions& options,
                     const std::function<std::uint64_t()>& ended);
  // The same to a port, by the daemon's counters: received, or dropped by one of the port's names.
  void send_counted(const std::string& port, std::uint16_t udp_port, const FlowOptions& options);
  std::uint64_t port_counter(const std::string& port, const std::string& name);
  // Workers count after they have delivered, so these wait for the value, and say what it was if it does not
  // come.
  void expect_port_counter(const std::string& port, const std::string& name, std::uint64_t value);
  void expect_counter(const std::string& flat_name, std::uint64_t value);
  // A frame that the port may send; bytes from the payload on vary with `seed`.
  Frame frame_from_nic(std::size_t frame_bytes, std::uint64_t seed);

 private:
  VethOptions links_;
  std::optional<NetNs> nic_ns_, wire_ns_;
  std::optional<VethPair> pair_;
  std::unique_ptr<Daemon> daemon_;
};

// One flow at its own pace and nothing lost: starts, waits, and says how many were sent.
void expect_sent(LiveFrames& flow, std::uint64_t count);

}  // namespace sluice::test
