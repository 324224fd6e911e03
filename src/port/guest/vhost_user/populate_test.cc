// Memory that is populated before its guest's rings start: who does it, who waits, and what if it fails.
#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "port/guest/vhost_user/vhost_fixture.h"

namespace sluice::test {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kLarge = 256 * kMiB;

class Populate : public VhostTest {
 protected:
  Populate() { options.populate = true; }

  static vhost_user_mem_reg region(std::uint64_t bytes) {
    return {0, {.guest_address = 0, .bytes = bytes, .user_address = 0, .file_offset = 0}};
  }
  static UniqueFd sparse(std::uint64_t bytes, unsigned flags = 0) {
    UniqueFd file(::memfd_create("guest-ram", MFD_CLOEXEC | flags));
    if (file) {
      EXPECT_EQ(::ftruncate(file.get(), static_cast<off_t>(bytes)), 0);
    }
    return file;
  }
  static std::uint64_t allocated(const UniqueFd& file) {
    struct stat status{};
    EXPECT_EQ(::fstat(file.get(), &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
  }
  std::optional<std::uint64_t> add(FrontEnd& front, std::uint64_t bytes, int fd) {
    return front.tell(VHOST_USER_ADD_MEM_REG, region(bytes), std::span(&fd, 1));
  }
  // Without waiting for the answer.
  static bool begin_to_add(FrontEnd& front, std::uint64_t bytes, int fd) {
    return front.send(VHOST_USER_ADD_MEM_REG, region(bytes), std::span(&fd, 1));
  }
  static std::size_t threads() {
    auto folder = std::filesystem::directory_iterator("/proc/self/task");
    return static_cast<std::size_t>(std::distance(begin(folder), end(folder)));
  }
  static long faults_of_this_thread() {
    rusage usage{};
    ::getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_minflt;
  }
};

TEST_F(Populate, AllOfItIsThereWhenTheAnswerComesAndOthersAreServedMeanwhile) {
  start();
  {
    FrontEnd front = connect();
    UniqueFd file = sparse(kLarge);
    const long faults = faults_of_this_thread();
    ASSERT_TRUE(begin_to_add(front, kLarge, file.get()));
    ASSERT_TRUE(turn_until([&] { return port->vhost().populating; }));
    EXPECT_TRUE(port->vhost().regions.empty()) << "nobody uses it before";
    EXPECT_TRUE(bystander_front().barrier());
    EXPECT_TRUE(front.barrier()) << "messages behind it wait, and are answered";
    EXPECT_EQ(allocated(file), kLarge);
    EXPECT_FALSE(port->vhost().populating);
    EXPECT_EQ(port->vhost().populated_bytes, kLarge);
    EXPECT_EQ(port->vhost().regions.size(), 1u);
    // This thread is the control thread and the worker.
    EXPECT_LT(faults_of_this_thread() - faults, static_cast<long>(kLarge / 4096 / 4));
  }
  expect_unharmed();
}

TEST_F(Populate, AnotherRegionIsPopulatedAlone) {
  start();
  {
    FrontEnd front = connect();
    GoodGuest guest;
    guest.bring_up(front);
    ASSERT_TRUE(front.barrier());
    EXPECT_EQ(port->vhost().populated_bytes, guest.ram.bytes());
    GuestRam more(kMiB, 0x70000000);
    const int fd = more.fd();
    EXPECT_EQ(front.tell(VHOST_USER_ADD_MEM_REG, vhost_user_mem_reg{0, more.region()}, std::span(&fd, 1)),
              0u);
    EXPECT_EQ(port->vhost().populated_bytes, guest.ram.bytes() + kMiB);
    EXPECT_TRUE(carries(guest)) << "its rings have gone on";
  }
  expect_unharmed();
}

TEST_F(Populate, Malicious_AFrontEndThatGoesMeanwhileTakesNothingWithIt) {
  start();
  const std::size_t before = threads();
  for (int i = 0; i < 20; ++i) {
    FrontEnd front = connect();
    UniqueFd file = sparse(kLarge);
    ASSERT_TRUE(begin_to_add(front, kLarge, file.get()));
    ASSERT_TRUE(turn_until([&] { return port->vhost().populating; }));
    EXPECT_LE(threads(), before + 2) << "a door and one that populates";
    front.close();
    ASSERT_TRUE(turn_until([&] { return !port->vhost().connected; }));
    EXPECT_FALSE(port->vhost().populating);
  }
  EXPECT_TRUE(turn_until([&] {
    Closer::of_process().drain();
    return port->vhost().mapped_bytes == 0;
  }));
  expect_unharmed();
}

TEST_F(Populate, Malicious_ThePortMayBeRemovedMeanwhile) {
  start();
  FrontEnd front = connect();
  UniqueFd file = sparse(kLarge);
  ASSERT_TRUE(begin_to_add(front, kLarge, file.get()));
  ASSERT_TRUE(turn_until([&] { return port->vhost().populating; }));
  const std::size_t mappings = guest_mappings();
  port.reset();
  EXPECT_EQ(guest_mappings(), mappings - 1);
}

TEST_F(Populate, Malicious_MemoryThatCannotBeHadIsRefusedByName) {
  start();
  {
    FrontEnd front = connect();  // more huge pages than there are
    UniqueFd file = sparse(std::uint64_t{200} << 30, MFD_HUGETLB | MFD_HUGE_1GB);
    if (!file) {
      GTEST_SKIP() << "this machine has no huge pages";
    }
    EXPECT_EQ(add(front, std::uint64_t{200} << 30, file.get()), 1u);
    EXPECT_EQ(counter("fault_memory_populate"), 1u);
    EXPECT_EQ(counter("fault_memory_page_size"), 0u);
    EXPECT_TRUE(port->vhost().regions.empty());
    EXPECT_TRUE(front.barrier()) << "it may offer other memory";
  }
  expect_unharmed();
}

TEST_F(Populate, Malicious_ABudgetHoldsBeforeAnythingIsPopulated) {
  options.memory_bytes = 4 * kMiB;
  start();
  {
    FrontEnd front = connect();
    UniqueFd file = sparse(kLarge);
    EXPECT_EQ(add(front, kLarge, file.get()), 1u);
    EXPECT_EQ(counter("fault_memory_budget"), 1u);
    EXPECT_EQ(allocated(file), 0u);
  }
  expect_unharmed();
}

// What a file loses while it is populated is no fault of ours, and no signal.
TEST_F(Populate, Malicious_AFileThatShrinksMeanwhileIsRefused) {
  start();
  {
    FrontEnd front = connect();
    UniqueFd file = sparse(kLarge);
    ASSERT_TRUE(begin_to_add(front, kLarge, file.get()));
    ASSERT_TRUE(turn_until([&] { return port->vhost().populating; }));
    ASSERT_EQ(::ftruncate(file.get(), 0), 0);
    EXPECT_TRUE(turn_until([&] { return !port->vhost().populating; }));
    EXPECT_TRUE(port->vhost().regions.empty() || counter("fault_memory_populate") == 0) << "it was too late";
  }
  expect_unharmed();
}

}  // namespace
}  // namespace sluice::test
