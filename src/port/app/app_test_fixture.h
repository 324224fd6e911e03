// What the tests of this folder share: a port over a real socket, a host that plays the engine, a wire to
// receive from.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/event_loop.h"
#include "port/app/app_peer.h"
#include "port/app/app_port.h"
#include "port/fake_services.h"

namespace sluice::test {

inline constexpr std::uint64_t kDeadlineNs = 10'000'000'000;
inline constexpr PortId kPort{5};
inline constexpr PortId kUplink{9};
inline constexpr MacAddress kMac{0x02, 0, 0, 0, 0, 0x11};
inline constexpr MacAddress kOtherMac{0x02, 0, 0, 0, 0, 0x99};

// The engine: keeps the lanes for the test to drive, and plays the NIC on owned queues (it holds pages while
// open).
class FakeHost final : public FakeServices {
 public:
  void install_lane(PortId, WorkerId worker, Lane* lane) override { lanes[raw(worker)] = lane; }
  void remove_lane(PortId, WorkerId worker) override { lanes.erase(raw(worker)); }
  void set_attached(PortId, bool on) override {
    events.push_back(on ? "attached" : "detached");
    attached = on;
  }
  void set_pressure(PortId, WorkerId worker, bool on) override {
    pressure[raw(worker)] = on;
    ++pressure_changes;
  }
  Result<void> open_queues(PortId, Arena& arena, std::span<PagePool* const> pools) override {
    if (refuse_queues) {
      return fail("the NIC is away");
    }
    events.push_back("open");
    open_arena = &arena;
    owned.assign(pools.begin(), pools.end());
    for (PagePool* pool : owned) {
      for (int i = 0; i < 8; ++i) {
        posted.emplace_back(pool, pool->alloc());
      }
    }
    return {};
  }
  bool queues_are_opening(PortId) const override { return opening; }
  void close_queues(PortId, std::function<void()> closed) override {
    EXPECT_TRUE(lanes.empty()) << "workers let go of the lanes before the queues are closed";
    events.push_back("close");
    for (auto [pool, page] : posted) {
      pool->release(page);
    }
    posted.clear();
    owned.clear();
    open_arena = nullptr;
    if (closes_later) {
      closing.push_back(std::move(closed));
    } else {
      closed();
    }
  }

  std::map<int, Lane*> lanes;
  std::map<int, bool> pressure;
  int pressure_changes = 0;
  bool attached = false;
  bool refuse_queues = false;
  bool opening = false;
  bool closes_later = false;
  std::vector<std::function<void()>> closing;  // what was closed, and the kernel is not done with
  std::vector<std::string> events;
  Arena* open_arena = nullptr;
  std::vector<PagePool*> owned;
  std::vector<std::pair<PagePool*, PageIndex>> posted;
};

class AppPortTest : public ::testing::Test {
 protected:
  AppPortTest() {
    char folder[] = "/tmp/sluice-app-test-XXXXXX";
    folder_ = ::mkdtemp(folder);
    options.id = kPort;
    options.name = "dns";
    options.socket = folder_ + "/dns.sock";
    options.pages = 256;
    options.tx_entries = 64;
    options.source_macs = {kMac};
    options.uplink = kUplink;
    options.workers = {WorkerId{0}};
    options.worker_sends = {true};
    options.huge = ArenaOptions::Huge::kNever;
  }
  ~AppPortTest() override {
    port.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  void start() {
    auto made = AppPort::create(options, *loop, host.services());
    ASSERT_TRUE(made) << made.error().message;
    port = std::move(*made);
  }

  // Turns the loop until `done`; false after the deadline.
  template <typename Done>
  bool turn_until(Done done) {
    std::uint64_t deadline = now_ns() + kDeadlineNs;
    while (!done()) {
      if (now_ns() > deadline) {
        return false;
      }
      loop->turn(5);
    }
    return true;
  }

  std::optional<Answer> answer_of(int socket) {
    std::optional<Answer> answer;
    pollfd state{.fd = socket, .events = POLLIN, .revents = 0};
    turn_until([&] { return ::poll(&state, 1, 0) > 0; });
    return read_answer(socket);
  }

  // Says `bytes` of `data` and returns the status of the answer.
  std::optional<Answer> say(const void* data, std::size_t bytes, std::span<const int> fds = {}) {
    UniqueFd socket = connect_to(options.socket);
    EXPECT_TRUE(socket && send_raw(socket.get(), data, bytes, fds));
    return answer_of(socket.get());
  }

  // The welcome to a good hello; it is not told yet that its memory is mapped.
  std::optional<Answer> hello_to_welcome(int socket, const char* name = "peer") {
    sluice_app_hello hello = good_hello(name);
    EXPECT_TRUE(send_raw(socket, &hello, sizeof(hello)));
    auto answer = answer_of(socket);
    if (!answer || answer->welcome.status != SLUICE_APP_OK) {
      ADD_FAILURE() << "not attached: " << (answer ? answer->welcome.message : "no answer");
      return std::nullopt;
    }
    return answer;
  }

  std::unique_ptr<AppPeer> attach(const char* name = "peer") {
    UniqueFd socket = connect_to(options.socket);
    auto answer = hello_to_welcome(socket.get(), name);
    if (!answer) {
      return nullptr;
    }
    auto peer = std::make_unique<AppPeer>(std::move(socket), std::move(*answer));
    EXPECT_TRUE(turn_until([&] { return peer->take_served(); })) << "it is not served";
    return peer;
  }

  void wait_detached() {
    ASSERT_TRUE(turn_until([&] { return !port->session(); }));
  }

  Lane& lane(int worker = 0) { return *host.lanes.at(worker); }

  // `count` frames of `bytes` from the wire, for the port, from a queue of the host's domain.
  void receive(std::uint32_t count, std::uint32_t bytes = 60, int worker = 0) {
    while (count > 0) {
      std::uint32_t burst = std::min(count, kBurst);
      std::vector<Packet> packets(burst);
      for (Packet& packet : packets) {
        frame_[0] = std::byte(++serial_);
        packet = {.body = frame_, .body_bytes = bytes, .page = PageIndex{0}, .rule = 3, .port = kPort};
      }
      lane(worker).copy_in({.nic = NicId{1}, .queue = QueueId{2}, .timestamp_ns = 77}, packets);
      for (const Packet& packet : packets) {
        EXPECT_EQ(packet.page, PageIndex{0}) << "copy_in takes no page";
      }
      count -= burst;
    }
  }

  std::map<std::string, std::uint64_t> counters() {
    struct Reader : CounterVisitor {
      std::map<std::string, std::uint64_t> values;
      void counter(std::string_view name, std::uint64_t value) override { values[std::string(name)] = value; }
    } reader;
    port->visit(reader);
    return reader.values;
  }
  std::uint64_t counter(const std::string& name) { return counters().at(name); }

  std::uint32_t inflight() {
    std::uint32_t sum = 0;
    port->visit_pools([&](const PagePool& pool) { sum += pool.inflight(); });
    return sum;
  }

  // A frame of `bytes` from `mac`.
  static std::vector<std::byte> frame_from(const MacAddress& mac, std::size_t bytes = 60,
                                           std::uint8_t fill = 0xab) {
    std::vector<std::byte> frame(bytes, std::byte{fill});
    if (bytes >= 12) {
      std::memcpy(frame.data() + 6, mac.data(), 6);
    }
    return frame;
  }

  FakeHost host;
  AppPortOptions options;
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create().value());
  std::unique_ptr<AppPort> port;

 private:
  std::string folder_;
  std::uint32_t serial_ = 0;
  std::byte frame_[4096]{};
};

}  // namespace sluice::test
