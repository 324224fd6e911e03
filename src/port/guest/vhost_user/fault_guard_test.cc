#include "port/guest/vhost_user/fault_guard.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <atomic>
#include <cstddef>
#include <fstream>
#include <future>
#include <span>
#include <sstream>
#include <thread>

#include "port/guest/vhost_user/vhost_fixture.h"
#include "port/guest/virtio/call_sender.h"
#include "test/support/checked_threads.h"
#include "test/support/huge_pages.h"

namespace sluice::test {
namespace {

constexpr std::size_t kPage = 4096;

struct MappedFile {
  explicit MappedFile(std::size_t pages, unsigned flags = 0)
      : file(::memfd_create("guest-ram", MFD_CLOEXEC | flags)) {
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

// ---- where memory is short, in a child

// From here on the kernel has no memory of this process's own to give, as when all of it is promised already
// (vm.overcommit_memory = 2): mmap(2) fails for what is private and longer than `most`.
void promise_no_more_than(std::uint32_t most) {
  constexpr auto kLow = [](int argument) {
    return static_cast<std::uint32_t>(offsetof(seccomp_data, args) +
                                      std::size_t{8} * static_cast<std::size_t>(argument));
  };
  std::array<sock_filter, 8> code{{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 5),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kLow(3)),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, MAP_PRIVATE, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kLow(1)),
      BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, most, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOMEM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  }};
  const sock_fprog program{.len = code.size(), .filter = code.data()};
  ASSERT_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1ul, 0ul, 0ul, 0ul), 0);
  ASSERT_EQ(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

// Touches each page of a file that is gone, after `shorten` has made memory short, and ends with 0 if that
// went as it should.
[[noreturn]] void lose(MappedFile& file, std::size_t page_bytes, const std::function<void()>& shorten) {
  MappedFile other(1);
  LossSignal signal = std::move(LossSignal::create().value());
  FaultWatch watch = std::move(FaultWatch::watch(file.bytes(), page_bytes, signal).value());
  FaultWatch beside = std::move(FaultWatch::watch(other.bytes(), kPage, signal).value());
  std::span<std::byte> bytes = file.bytes();
  for (std::size_t at = 0; at < bytes.size(); at += page_bytes) {
    bytes[at] = std::byte{1};
  }
  bool good = ::ftruncate(file.file.get(), 0) == 0;
  shorten();
  for (std::size_t at = 0; at < bytes.size(); at += kPage) {
    good = good && touch(&bytes[at]) == std::byte{0};
  }
  for (std::size_t at = 0; at < bytes.size(); at += kPage) {
    bytes[at] = std::byte{7};  // stays a write into memory of nobody
  }
  // One access that lies in two pages.
  std::uint64_t straddling = 0;
  std::memcpy(&straddling, &bytes[bytes.size() / 2 - 4], sizeof straddling);
  asm volatile("" : : "r"(straddling) : "memory");
  good = good && watch.lost() && signal.lost() && signal.take();
  good = good && touch(other.mapping.data()) == std::byte{0} && !beside.lost();
  ::_exit(good ? 0 : 1);
}

class FaultGuardShortDeathTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (sluice::test::kThreadsAreChecked) {
      GTEST_SKIP() << "the checker of threads takes memory at any moment, and ends without it";
    }
    GTEST_FLAG_SET(death_test_style, "threadsafe");
  }
};

TEST_F(FaultGuardShortDeathTest, Malicious_LostPagesNeedNoMemoryThatIsNotThereYet) {
  EXPECT_EXIT(
      {
        MappedFile file(64);
        lose(file, kPage, [] { promise_no_more_than(0); });
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(FaultGuardShortDeathTest, Malicious_APageIsReplacedAndNotAllThatIsBehindIt) {
  EXPECT_EXIT(
      {
        MappedFile file(4 * kPagesReplacedSingly);
        lose(file, kPage, [] { promise_no_more_than(kPage); });
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(FaultGuardShortDeathTest, Malicious_LostPagesNeedNoAddressSpace) {
  EXPECT_EXIT(
      {
        MappedFile file(4 * kPagesReplacedSingly);
        lose(file, kPage, [] {
          std::uint64_t pages = 0;
          std::ifstream("/proc/self/statm") >> pages;
          const rlimit used_up{pages * kPage, pages * kPage};
          ::setrlimit(RLIMIT_AS, &used_up);
        });
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(FaultGuardShortDeathTest, Malicious_LostHugePagesNeedNoMemoryEither) {
  auto reserved = HugePages::reserve(2);
  if (!reserved) {
    GTEST_SKIP() << reserved.error().message;
  }
  constexpr std::size_t kHuge = std::size_t{2} << 20;
  EXPECT_EXIT(
      {
        MappedFile file(2 * kHuge / kPage, MFD_HUGETLB | 21u << 26);
        lose(file, kHuge, [] { promise_no_more_than(0); });
      },
      ::testing::ExitedWithCode(0), "");
}

// Mappings of this process that lie in `bytes`: others come and go, those of sanitizers.
std::size_t mappings_in(std::span<const std::byte> bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data());
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t from = 0, to = 0;
    char dash = 0;
    std::istringstream(line) >> std::hex >> from >> dash >> to;
    count += from >= begin && to <= begin + bytes.size() ? 1 : 0;
  }
  return count;
}

TEST(FaultGuard, Malicious_ALargeLossIsAFewMappingsOfOurs) {
  constexpr std::size_t kPages = 5000;
  MappedFile file(kPages);
  LossSignal signal = std::move(LossSignal::create().value());
  FaultWatch watch = std::move(FaultWatch::watch(file.bytes(), kPage, signal).value());
  const std::size_t before = mappings_in(file.bytes());
  ASSERT_EQ(before, 1u);
  ASSERT_EQ(::ftruncate(file.file.get(), 0), 0);
  for (std::size_t page = 0; page < kPages; page += 2) {
    touch(file.mapping.data() + page * kPage);
  }
  EXPECT_LE(mappings_in(file.bytes()), before + 2 * kPagesReplacedSingly + 2);
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
    EXPECT_TRUE(turn_until([&] { return !port->vhost().connected; }));
    EXPECT_TRUE(front.wait_closed());
  }
  EXPECT_EQ(counter("fault_memory_lost"), 20u);
  expect_unharmed();
}

// Until the control thread comes, and that may be long.
TEST_F(Malicious_Loss, M9_AWorkerLeavesAGuestAloneWhoseMemoryIsLost) {
  start();
  {
    FrontEnd front = connect();
    GoodGuest guest;
    guest.bring_up(front);
    ASSERT_TRUE(front.barrier());
    ASSERT_TRUE(carries(guest));
    guest.send(numbered_frame(1));
    ASSERT_EQ(::ftruncate(guest.ram.fd(), 0), 0);
    host.work();
    const std::uint64_t sent = counter("tx_packets");
    const std::uint64_t faults =
        counter("fault_ring_index") + counter("fault_ring_head") + counter("fault_buffer_empty");
    for (int turn = 0; turn < 100; ++turn) {
      host.work();
    }
    EXPECT_EQ(counter("tx_packets"), sent);
    EXPECT_EQ(counter("fault_ring_index") + counter("fault_ring_head") + counter("fault_buffer_empty"),
              faults);
    EXPECT_TRUE(front.wait_closed());
    EXPECT_EQ(counter("fault_memory_lost"), 1u);
  }
  expect_unharmed();
}

}  // namespace
}  // namespace sluice::test
