// Peers that make it dear to wake them, or hold who closes their descriptors: others do not pay for it.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "base/untrusted.h"
#include "port/guest/vhost_user/features.h"
#include "test/system/fixture.h"
#include "test/system/raw_app.h"
#include "test/vhost/mock_front_end.h"

namespace sluice::test {
namespace {

using nlohmann::json;

constexpr std::uint16_t kGood = 5000, kBad = 5001;

// Fifty thousand epoll watches on one descriptor, each of which is told by whoever wakes it.
class Watches {
 public:
  explicit Watches(int watched) {
    constexpr int kCopies = 10'000, kSets = 5;
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 2 * kCopies);
    ::setrlimit(RLIMIT_NOFILE, &limit);
    for (int i = 0; i < kSets; ++i) {
      sets_.emplace_back(::epoll_create1(EPOLL_CLOEXEC));
    }
    for (int i = 0; i < kCopies; ++i) {
      UniqueFd copy(::fcntl(watched, F_DUPFD_CLOEXEC, 0));
      need(static_cast<bool>(copy), "a copy of the descriptor");
      for (const UniqueFd& set : sets_) {
        epoll_event event{.events = EPOLLIN, .data = {}};
        need(::epoll_ctl(set.get(), EPOLL_CTL_ADD, copy.get(), &event) == 0, "an epoll watch");
      }
      copies_.push_back(std::move(copy));
    }
  }

 private:
  std::vector<UniqueFd> sets_, copies_;
};

// A thread that stands in epoll_wait(2), with its set locked, since the events would go to a page that nobody
// brings. Who then closes the last reference to what the set watches waits for it.
class LockedSet {
 public:
  static bool possible() {
    const UniqueFd faults(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC)));
    return static_cast<bool>(faults);
  }
  LockedSet() : faults_(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))) {
    uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
    need(::ioctl(faults_.get(), UFFDIO_API, &api) == 0, "userfaultfd");
    page_ = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uffdio_register place{.range = {reinterpret_cast<std::uintptr_t>(page_), 4096},
                          .mode = UFFDIO_REGISTER_MODE_MISSING,
                          .ioctls = 0};
    need(::ioctl(faults_.get(), UFFDIO_REGISTER, &place) == 0, "UFFDIO_REGISTER");
    set_.reset(::epoll_create1(EPOLL_CLOEXEC));
  }
  ~LockedSet() { unlock(); }
  void watch(int fd) {
    epoll_event event{.events = EPOLLIN, .data = {}};
    need(::epoll_ctl(set_.get(), EPOLL_CTL_ADD, fd, &event) == 0, "an epoll watch");
  }
  void lock() {  // when something that it watches is readable
    thread_ = std::thread([this] { ::epoll_wait(set_.get(), static_cast<epoll_event*>(page_), 1, -1); });
    pollfd fault{.fd = faults_.get(), .events = POLLIN, .revents = 0};
    need(::poll(&fault, 1, 20'000) == 1, "the fault");
  }
  void unlock() {
    faults_.reset();
    if (thread_.joinable()) {
      thread_.join();
    }
  }

 private:
  UniqueFd faults_, set_;
  void* page_ = nullptr;
  std::thread thread_;
};

// A guest that sends one frame at a time and wants an interrupt for each.
class CallingGuest {
 public:
  static constexpr std::uint16_t kEntries = 256;
  explicit CallingGuest(const std::string& socket)
      : front_(FrontEnd::connect(socket)),
        kick_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
        call_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    front_.negotiate(kFeatureVersion1 | kFeatureProtocol, 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK);
    const GuestRam* rams[] = {&ram_};
    front_.send_table(rams);
    rings_ = RingAreas::split(ram_, kEntries);
    std::byte* buffers = ram_.allocate(kEntries * 256, 4096);
    for (std::uint16_t i = 0; i < kEntries; ++i) {
      struct {
        std::uint64_t address;
        std::uint32_t bytes;
        std::uint16_t flags, next;
      } descriptor{ram_.guest_address_of(buffers + i * 256), 200, 0, 0};
      std::memcpy(rings_.descriptors + 16 * std::size_t{i}, &descriptor, 16);
      std::memcpy(rings_.driver_area + 4 + 2 * std::size_t{i}, &i, 2);
    }
    front_.set_up_ring(1, kEntries, rings_, 0, kick_.get(), call_.get());
    front_.enable(1, true);
    need(front_.barrier(), "the ring");
  }
  // True: it was taken, and the guest was interrupted.
  bool send_one() {
    auto& avail = *reinterpret_cast<std::uint16_t*>(rings_.driver_area + 2);
    auto& used = *reinterpret_cast<std::uint16_t*>(rings_.device_area + 2);
    std::uint64_t word = 0;
    (void)!::read(call_.get(), &word, sizeof word);
    write_once(avail, ++sent_, std::memory_order_release);
    kick();
    pollfd call{.fd = call_.get(), .events = POLLIN, .revents = 0};
    return eventually([&] { return read_once(used, std::memory_order_acquire) == sent_; }) &&
           ::poll(&call, 1, 20'000) == 1;
  }
  void kick() {
    const std::uint64_t one = 1;
    (void)!::write(kick_.get(), &one, sizeof one);
  }
  FrontEnd& front() { return front_; }
  int call() const { return call_.get(); }
  void close_descriptors() {
    call_.reset();
    kick_.reset();
  }

 private:
  GuestRam ram_{1 << 20};
  FrontEnd front_;
  UniqueFd kick_, call_;
  RingAreas rings_;
  std::uint16_t sent_ = 0;
};

class Malicious_Wakes : public SystemTest {
 protected:
  std::string guest(const std::string& name, int mac) {
    return fmt::format(
        "[port.{0}]\ntype = \"guest\"\nsocket = \"@/{0}.sock\"\nmac = \"52:54:00:00:00:{1:02x}\"\n"
        "stall_budget_us = 0\n",
        name, mac);
  }
  std::unique_ptr<AppPeer> attach_raw(const std::string& port) {
    return attach_at(daemon().path(port + ".sock"));
  }
  // One frame for an app that sleeps.
  bool send_to_sleeper(AppPeer& app, Tap& wire) {
    app.lanes[0].rx.prepare_sleep();
    int error = 0;
    wire.send(frame_to(kBad), error);
    std::optional<sluice_rx_entry> got;
    const bool came = eventually([&] { return (got = app.receive()).has_value(); });
    if (came) {
      app.give_back(got->page);
    }
    std::uint64_t word = 0;
    while (::recv(app.lanes[0].wake_app, &word, sizeof word, MSG_DONTWAIT) > 0) {
    }
    return came;
  }
};

TEST_F(Malicious_Wakes, AnAppWithFiftyThousandWatchesIsWokenByTheWakerAndAnotherGoesOn) {
  start(nic_table() + app_port("good") + app_port("bad", "stall_budget_us = 0") + udp_rule(kGood, "good") +
        udp_rule(kBad, "bad"));
  Stream good = stream_to("good", kGood);
  auto bad = attach_raw("bad");
  Tap wire = wire_tap();
  ASSERT_TRUE(send_to_sleeper(*bad, wire));
  EXPECT_EQ(daemon().port("bad")["wakes"], "direct");
  EXPECT_EQ(port_counter("bad", "fault_wake_slow"), 0u);
  Watches watches(bad->lanes[0].wake_app);
  int dear = 0;
  while (daemon().port("bad")["wakes"] == "direct" && ++dear < 100) {
    ASSERT_TRUE(send_to_sleeper(*bad, wire));
  }
  EXPECT_LT(dear, 100);
  EXPECT_GE(port_counter("bad", "fault_wake_slow"), 1u);
  const std::uint64_t asked = port_counter("bad", "wakeups");
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(send_to_sleeper(*bad, wire));
    ASSERT_EQ(daemon().port("bad")["wakes"], "by waker") << "the worker makes none of them";
  }
  EXPECT_GT(port_counter("bad", "wakeups"), asked);
  EXPECT_TRUE(
      eventually([&] { return send_to_sleeper(*bad, wire) && port_counter("bad", "wakes_by_waker") >= 3; }));
  EXPECT_EQ(daemon().port("good")["wakes"], "direct");
  bad.reset();
  EXPECT_TRUE(eventually([&] { return daemon().port("bad")["state"] == "detached"; }));
  good.expect_nothing_lost();
}

TEST_F(Malicious_Wakes, AGuestWithFiftyThousandWatchesOnItsInterruptIsCalledByTheWaker) {
  start(nic_table() + app_port("good") + udp_rule(kGood, "good") + guest("vm0", 1) + guest("vm1", 2));
  Stream good = stream_to("good", kGood);
  CallingGuest bad(daemon().path("vm0.sock")), other(daemon().path("vm1.sock"));
  ASSERT_TRUE(bad.send_one());
  EXPECT_EQ(daemon().port("vm0")["wakes"], "direct");
  Watches watches(bad.call());
  int dear = 0;
  while (daemon().port("vm0")["wakes"] == "direct" && ++dear < 100) {
    ASSERT_TRUE(bad.send_one());
  }
  EXPECT_LT(dear, 100);
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(bad.send_one()) << "it is interrupted all the same";
    ASSERT_TRUE(other.send_one());
    ASSERT_EQ(daemon().port("vm0")["wakes"], "by waker");
  }
  EXPECT_GE(port_counter("vm0", "wakes_by_waker"), 20u);
  EXPECT_EQ(port_counter("vm1", "wakes_by_waker"), 0u);
  EXPECT_EQ(daemon().port("vm1")["wakes"], "direct");
  bad.front().close();
  EXPECT_TRUE(eventually([&] { return daemon().port("vm0")["state"] == "waiting"; }));
  good.expect_nothing_lost();
}

// The daemon keeps no reference to what an app wakes it by: who closes it last, and waits, is the app.
TEST_F(Malicious_Wakes, AnAppThatGoesAndKeepsAnEpollSetLockedHoldsUpNobody) {
  if (!LockedSet::possible()) {
    GTEST_SKIP() << "needs userfaultfd(2)";
  }
  start(nic_table() + app_port("good") + app_port("bad") + udp_rule(kGood, "good") + udp_rule(kBad, "bad"));
  Stream good = stream_to("good", kGood);
  LockedSet set;
  auto bad = attach_raw("bad");
  set.watch(bad->lanes[0].wake_daemon);
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(bad->lanes[0].wake_daemon, &one, sizeof one), 8);
  set.lock();
  bad->close_socket();
  std::thread closing([&] { bad->close_descriptors(); });
  EXPECT_TRUE(eventually([&] { return daemon().port("bad")["state"] == "detached"; }));
  good.expect_nothing_lost();
  auto again = attach_raw("bad");
  EXPECT_EQ(daemon().port("bad")["state"], "attached");
  EXPECT_EQ(daemon().stop(), 0);
  set.unlock();
  closing.join();
}

TEST_F(Malicious_Wakes, AGuestThatGoesAndKeepsAnEpollSetLockedHoldsUpNobody) {
  if (!LockedSet::possible()) {
    GTEST_SKIP() << "needs userfaultfd(2)";
  }
  start(nic_table() + guest("vm0", 1) + guest("vm1", 2));
  LockedSet set;
  CallingGuest bad(daemon().path("vm0.sock")), other(daemon().path("vm1.sock"));
  ASSERT_TRUE(bad.send_one());
  set.watch(bad.call());
  set.lock();
  bad.close_descriptors();
  bad.front().close();
  EXPECT_TRUE(eventually([&] { return daemon().port("vm0")["state"] == "waiting"; }));
  EXPECT_TRUE(eventually([&] { return daemon().counter("daemon.doors_stuck") == 1; }));
  ASSERT_TRUE(other.send_one());
  CallingGuest again(daemon().path("vm0.sock"));
  ASSERT_TRUE(again.send_one());
  EXPECT_EQ(daemon().stop(), 0);
  set.unlock();
}

}  // namespace
}  // namespace sluice::test
