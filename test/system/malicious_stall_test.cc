// A guest that takes its memory away while a worker reads it: what that costs is the guest's alone.
#include <fcntl.h>
#include <sys/eventfd.h>

#include <atomic>
#include <thread>

#include "base/untrusted.h"
#include "port/guest/vhost_user/features.h"
#include "test/system/fixture.h"
#include "test/vhost/mock_front_end.h"

namespace sluice::test {
namespace {

using nlohmann::json;

constexpr std::uint16_t kEntries = 256;
constexpr std::uint64_t kPunched = 384ull << 20;

// Sends without end from a region that another thread fills and punches. Its rings stay whole.
class PunchingGuest {
 public:
  explicit PunchingGuest(const std::string& socket)
      : front_(FrontEnd::connect(socket)), kick_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    front_.negotiate(kFeatureVersion1 | kFeatureProtocol, 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK);
    const GuestRam* rams[] = {&ram_};
    front_.send_table(rams);
    rings_ = RingAreas::split(ram_, kEntries);
    buffers_ = ram_.allocate(kPunched, 4096);
    for (std::uint16_t i = 0; i < kEntries; ++i) {
      struct {
        std::uint64_t address;
        std::uint32_t bytes;
        std::uint16_t flags, next;
      } descriptor{ram_.guest_address_of(buffers_ + i * (kPunched / kEntries)), 200, 0, 0};
      std::memcpy(rings_.descriptors + 16 * std::size_t{i}, &descriptor, 16);
      std::memcpy(rings_.driver_area + 4 + 2 * std::size_t{i}, &i, 2);
    }
    front_.set_up_ring(1, kEntries, rings_, 0, kick_.get(), -1);
    front_.enable(1, true);
    EXPECT_TRUE(front_.barrier());
    sender_ = std::thread([this] { send(); });
    puncher_ = std::thread([this] { punch(); });
  }
  ~PunchingGuest() {
    stop_ = true;
    sender_.join();
    puncher_.join();
  }

 private:
  void send() {
    auto& avail = *reinterpret_cast<std::uint16_t*>(rings_.driver_area + 2);
    auto& used = *reinterpret_cast<std::uint16_t*>(rings_.device_area + 2);
    while (!stop_) {
      const auto seen = read_once(used, std::memory_order_acquire);
      write_once(avail, static_cast<std::uint16_t>(seen + kEntries), std::memory_order_release);
      const std::uint64_t one = 1;
      (void)!::write(kick_.get(), &one, sizeof one);
    }
  }
  void punch() {
    const auto begin = static_cast<off_t>(buffers_ - ram_.data());
    while (!stop_) {
      (void)::fallocate(ram_.fd(), 0, begin, static_cast<off_t>(kPunched));
      (void)::fallocate(ram_.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, begin,
                        static_cast<off_t>(kPunched));
    }
  }

  GuestRam ram_{kPunched + (4 << 20)};
  FrontEnd front_;
  UniqueFd kick_;
  RingAreas rings_;
  std::byte* buffers_ = nullptr;
  std::atomic<bool> stop_{false};
  std::thread sender_, puncher_;
};

class Malicious_Stalls : public SystemTest {
 protected:
  std::uint64_t counter(const std::string& port, const std::string& name) {
    for (const json& each : daemon().show("ports")) {
      if (each["name"] == port) {
        return each["counters"].value(name, std::uint64_t{0});
      }
    }
    return 0;
  }
};

TEST_F(Malicious_Stalls, AGuestThatPunchesItsMemoryIsThrottledThenCutOffAndTheWorkerGoesOn) {
  const std::string config =
      nic_table() +
      "[port.vm0]\ntype = \"guest\"\nsocket = \"@/vm0.sock\"\nmac = \"52:54:00:00:00:01\"\n"
      "stall_budget_us = 500\nstall_window_ms = 100\n";
  start(config);
  PunchingGuest guest(daemon().path("vm0.sock"));
  EXPECT_TRUE(eventually([&] { return counter("vm0", "slow_calls") > 0; }));
  EXPECT_TRUE(eventually([&] { return counter("vm0", "stall_charged_us") > 500; }));
  EXPECT_TRUE(eventually([&] { return counter("vm0", "turns_skipped") > 0; }));
  EXPECT_TRUE(eventually([&] { return counter("vm0", "fault_stalled") == 1; }));
  // The worker is free again: it takes the lane of a new port.
  const std::uint64_t turns = daemon().show("counters")["worker.0.turns"];
  daemon().write_config(
      config + "[port.vm1]\ntype = \"guest\"\nsocket = \"@/vm1.sock\"\nmac = \"52:54:00:00:00:02\"\n");
  const auto done = daemon().call("reload");
  EXPECT_TRUE(done) << done.error().message;
  EXPECT_TRUE(
      eventually([&] { return daemon().show("counters")["worker.0.turns"].get<std::uint64_t>() > turns; }));
}

}  // namespace
}  // namespace sluice::test
