// What the tests of the control half share: guest ports over real sockets, a host that plays engine and
// worker on the test's own thread, a guest that behaves, and a bystander that must not notice anything.
#pragma once

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/closer.h"
#include "base/event_loop.h"
#include "base/untrusted.h"
#include "port/burst_of.h"
#include "port/fake_services.h"
#include "port/guest/guest_port.h"
#include "port/guest/vhost_user/features.h"
#include "port/guest/vhost_user/message.h"
#include "test/vhost/good_guest.h"
#include "test/vhost/mock_front_end.h"
#include "test/vhost/thread_doors.h"

namespace sluice::test {

inline constexpr std::uint64_t kDeadlineNs = 20'000'000'000;
using Frame = std::vector<std::byte>;

// Engine and worker: frames go from lane to lane as their port says. The worker may be another thread: the
// lock is what a real one does by running changes between two bursts.
class InlineHost final : public FakeServices {
 public:
  void install_lane(PortId port, WorkerId, Lane* lane) override {
    std::lock_guard lock(mutex_);
    lanes[raw(port)] = lane;
  }
  void remove_lane(PortId port, WorkerId) override {
    std::lock_guard lock(mutex_);
    lanes.erase(raw(port));
  }
  void set_attached(PortId port, bool on) override { attached[raw(port)] = on; }
  bool pause(std::span<const WorkerId> workers, Patience patience,
             const std::function<void()>& change) override {
    std::lock_guard lock(mutex_);
    if (late && patience == Patience::kShort) {
      return false;
    }
    if (out_of_memory > 0) {
      --out_of_memory;
      std::rethrow_exception(std::make_exception_ptr(std::bad_alloc()));
    }
    ++quiesces;
    paused += workers.size();
    change();
    return true;
  }
  // One turn of a worker over all lanes.
  void work() {
    std::lock_guard lock(mutex_);
    for (auto& [id, lane] : lanes) {
      std::array<Packet, kBurst> packets;
      const std::uint32_t count = burst_of(*lane, packets);
      for (Packet& packet : std::span(packets).first(count)) {
        auto to = lanes.find(raw(packet.port));
        if (to != lanes.end()) {
          to->second->copy_in({.domain = domain_of(PortId{id}), .port = PortId{id}}, std::span(&packet, 1));
        }
      }
      lane->done(std::span(packets).first(count));
      lane->poll();
    }
  }

  std::map<std::uint16_t, Lane*> lanes;
  std::map<std::uint16_t, bool> attached;
  std::uint64_t quiesces = 0;
  std::uint64_t paused = 0;         // workers, summed over all pauses
  bool late = false;                // a worker does not come
  std::uint32_t out_of_memory = 0;  // so many pauses find no memory

 private:
  std::mutex mutex_;
};

inline Frame numbered_frame(std::uint32_t number, std::size_t bytes = 64) {
  Frame frame(bytes, std::byte(number * 7));
  constexpr std::array<std::uint8_t, 14> kHead{2, 0, 0, 0, 0, 9, 0x52, 0x54, 0, 0, 0, 1, 0x88, 0xb5};
  std::memcpy(frame.data(), kHead.data(), kHead.size());
  std::memcpy(frame.data() + kHead.size(), &number, sizeof(number));
  return frame;
}

class VhostTest : public ::testing::Test {
 protected:
  static constexpr PortId kVictim{5};
  static constexpr PortId kBystander{6};

  VhostTest() {
    char folder[] = "/tmp/sluice-vhost-test-XXXXXX";
    folder_ = ::mkdtemp(folder);
    options.id = kVictim;
    options.name = "vm0";
    options.socket = folder_ + "/vm0.sock";
    options.macs = {{0x52, 0x54, 0, 0, 0, 1}};
    options.uplink = kVictim;  // what it sends comes back to it
    options.workers = {WorkerId{0}};
    options.queue_pairs = 2;
    options.front_end_interval_ns = 0;  // these come and go
  }
  ~VhostTest() override {
    port.reset();
    bystander_front_.reset();
    bystander_port_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  // The port under attack, and beside it one whose guest behaves.
  void start() {
    auto made = GuestPort::create(options, *loop, host.services(), doors);
    ASSERT_TRUE(made) << made.error().message;
    port = std::move(*made);
    GuestPortOptions other = options;
    other.id = kBystander;
    other.name = "vm1";
    other.socket = folder_ + "/vm1.sock";
    other.role = GuestPortOptions::Role::kServer;
    other.policy = {};
    other.memory_bytes = GuestPortOptions{}.memory_bytes;
    other.sealed_memory = false;
    other.populate = false;
    other.uplink = kBystander;
    auto second = GuestPort::create(other, *loop, host.services(), doors);
    ASSERT_TRUE(second) << second.error().message;
    bystander_port_ = std::move(*second);
    bystander_front_.emplace(FrontEnd::connect(other.socket, turns()));
    bystander_.emplace();
    bystander_->bring_up(*bystander_front_);
    ASSERT_TRUE(bystander_front_->barrier());
    ASSERT_TRUE(carries(*bystander_));
    note_resources();
  }
  void note_resources() {
    descriptors_ = open_descriptors();
    mappings_ = guest_mappings();
  }

  // What every attack must leave as it was: the port takes the next front-end, nothing leaked, and the
  // bystander's traffic goes on.
  void expect_unharmed() {
    EXPECT_TRUE(carries(*bystander_)) << "the bystander's traffic";
    EXPECT_TRUE(turn_until([&] { return !port->vhost().connected; })) << "the attacker is gone";
    EXPECT_TRUE(turn_until([&] { return open_descriptors() == descriptors_; }))
        << open_descriptors() << " descriptors, " << descriptors_ << " before";
    EXPECT_EQ(guest_mappings(), mappings_);
    EXPECT_FALSE(host.attached[raw(kVictim)]);
    FrontEnd next = connect();
    GoodGuest guest;
    guest.bring_up(next);
    EXPECT_TRUE(next.barrier());
    EXPECT_TRUE(carries(guest)) << "the next front-end's traffic";
  }

  FrontEnd connect() {
    FrontEnd front = FrontEnd::connect(options.socket, turns());
    EXPECT_TRUE(front.connected());
    return front;
  }
  FrontEnd::Turn turns() {
    return [this] { turn(); };
  }
  void turn(int wait_ms = 1) {
    loop->turn(wait_ms);
    host.work();
  }
  template <typename Done>
  bool turn_until(Done done) {
    const std::uint64_t deadline = now_ns() + kDeadlineNs;
    while (!done()) {
      if (now_ns() > deadline) {
        return false;
      }
      turn();
    }
    return true;
  }

  // Sends frames and gets each back once, in order and unchanged.
  bool carries(GoodGuest& guest, std::uint32_t count = 100) {
    std::uint32_t sent = 0, received = 0;
    const std::uint64_t deadline = now_ns() + kDeadlineNs;
    while (received < count && now_ns() < deadline) {
      if (sent < count && sent - received < 32 && guest.send(numbered_frame(next_number_ + sent))) {
        ++sent;
      }
      turn(0);
      while (auto frame = guest.receive()) {
        if (*frame != numbered_frame(next_number_ + received)) {
          return false;
        }
        ++received;
      }
    }
    next_number_ += count;
    return received == count;
  }

  std::uint64_t counter(const std::string& name) {
    struct Reader : CounterVisitor {
      std::map<std::string, std::uint64_t> values;
      void counter(std::string_view key, std::uint64_t value) override { values[std::string(key)] = value; }
    } reader;
    port->visit(reader);
    return reader.values.at(name);
  }

  static std::size_t open_descriptors() {
    Closer::of_process().drain();
    auto folder = std::filesystem::directory_iterator("/proc/self/fd");
    return static_cast<std::size_t>(std::distance(begin(folder), end(folder)));
  }
  static std::size_t guest_mappings() {
    Closer::of_process().drain();
    std::ifstream maps("/proc/self/maps");
    std::size_t count = 0;
    for (std::string line; std::getline(maps, line);) {
      count += line.find("guest-ram") != std::string::npos ? 1u : 0u;
    }
    return count;
  }

  FrontEnd& bystander_front() { return *bystander_front_; }
  const std::string& folder() const { return folder_; }
  InlineHost host;
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create().value());
  ThreadDoors doors{loop.get()};
  GuestPortOptions options;
  std::unique_ptr<GuestPort> port;

 private:
  std::string folder_;
  std::unique_ptr<GuestPort> bystander_port_;
  std::optional<FrontEnd> bystander_front_;
  std::optional<GoodGuest> bystander_;
  std::size_t descriptors_ = 0, mappings_ = 0;
  std::uint32_t next_number_ = 0;
};

}  // namespace sluice::test
