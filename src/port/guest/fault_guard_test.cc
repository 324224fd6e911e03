#include "port/guest/fault_guard.h"

#include <poll.h>
#include <sys/mman.h>
#include <future>

#include <atomic>
#include <thread>

#include "port/guest/call_sender.h"
#include "port/guest/vhost_fixture.h"

namespace sluice::test {
namespace {

constexpr std::size_t kPage = 4096;

struct MappedFile {
  explicit MappedFile(std::size_t pages) : file(::memfd_create("guest-ram", MFD_CLOEXEC)) {
    EXPECT_EQ(::ftruncate(file.get(), static_cast<off_t>(pages * kPage)), 0);
    mapping = Mapping::map(file.get(), pages * kPage, PROT_READ | PROT_WRITE).value();
  }
  std::span<std::byte> bytes() const { return {mapping.data(), mapping.bytes()}; }
  UniqueFd file;
  Mapping mapping;
};

// An access that the compiler does not know the outcome of.
std::byte touch(std::byte* place) {
  return std::byte{read_once(*reinterpret_cast<std::uint8_t*>(place))};
}

TEST(FaultGuard, AnAccessBehindATruncatedFileReadsZeroesAndTellsTheOwnerOnce) {
  MappedFile one(4), other(4);
  LossSignal signal = std::move(LossSignal::create().value());
  LossSignal quiet = std::move(LossSignal::create().value());
  FaultWatch watch = std::move(FaultWatch::watch(one.bytes(), kPage, signal).value());
  FaultWatch beside = std::move(FaultWatch::watch(other.bytes(), kPage, quiet).value());
  one.mapping.data()[0] = std::byte{1};
  one.mapping.data()[2 * kPage] = std::byte{2};
  ASSERT_EQ(::ftruncate(one.file.get(), kPage), 0);
  EXPECT_FALSE(watch.lost());
  EXPECT_EQ(touch(one.mapping.data()), std::byte{1}) << "what is still there is still there";
  EXPECT_EQ(touch(one.mapping.data() + 2 * kPage), std::byte{0});
  EXPECT_EQ(touch(one.mapping.data() + 3 * kPage), std::byte{0});
  one.mapping.data()[3 * kPage] = std::byte{9};  // and can be written
  EXPECT_TRUE(watch.lost());
  EXPECT_TRUE(signal.take());
  EXPECT_FALSE(signal.take());
  EXPECT_FALSE(beside.lost());
  EXPECT_FALSE(quiet.take());
}

TEST(FaultGuard, AWatchThatHasEndedIsForgottenAndItsPlaceUsedAgain) {
  LossSignal signal = std::move(LossSignal::create().value());
  for (std::uint32_t i = 0; i < 3 * kMaxWatchedMappings; ++i) {
    alignas(kPage) static std::byte memory[kPage];
    ASSERT_TRUE(FaultWatch::watch(memory, kPage, signal));
  }
}

TEST(FaultGuard, MoreMappingsThanItCanWatchAreRefused) {
  alignas(kPage) static std::byte memory[kPage];
  LossSignal signal = std::move(LossSignal::create().value());
  std::vector<FaultWatch> watches;
  for (std::uint32_t i = 0; i < kMaxWatchedMappings; ++i) {
    watches.push_back(std::move(FaultWatch::watch(memory, kPage, signal).value()));
  }
  EXPECT_FALSE(FaultWatch::watch(memory, kPage, signal));
}

void touch_a_truncated_file_that_nobody_watches() {
  MappedFile watched(1), ours(2);
  LossSignal signal = std::move(LossSignal::create().value());
  FaultWatch watch = std::move(FaultWatch::watch(watched.bytes(), kPage, signal).value());
  if (::ftruncate(ours.file.get(), 0) == 0) {
    touch(ours.mapping.data());
  }
}

TEST(FaultGuardDeathTest, ABusErrorOfOurOwnStillEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(touch_a_truncated_file_that_nobody_watches(), "");
}

// The real thing: a worker of its own in the middle of traffic.
class Malicious_Loss : public VhostTest {
 protected:
  void run_worker() {
    std::promise<void> ready;
    worker_ = std::jthread([this, &ready](std::stop_token stop) {
      CallSender::of_this_thread();  // its descriptor stays as long as the thread
      ready.set_value();
      while (!stop.stop_requested()) {
        host.work();
      }
    });
    ready.get_future().wait();
    note_resources();
  }
  std::jthread worker_;
};

TEST_F(Malicious_Loss, M9_MemoryTakenAwayUnderAWorkerInFullTrafficEndsThatGuestAlone) {
  start();
  run_worker();
  for (int life = 0; life < 20; ++life) {
    FrontEnd front = connect();
    GoodGuest guest;
    guest.bring_up(front);
    ASSERT_TRUE(front.barrier());
    ASSERT_TRUE(carries(guest));
    while (guest.send(numbered_frame(1))) {
    }
    ASSERT_EQ(::ftruncate(guest.ram.fd(), life % 2 == 0 ? 0 : 2 * kPage), 0);
    EXPECT_TRUE(turn_until([&] { return !port->info().connected; }));
    EXPECT_TRUE(front.wait_closed());
  }
  EXPECT_EQ(counter("fault_memory_lost"), 20u);
  expect_unharmed();
}

}  // namespace
}  // namespace sluice::test
