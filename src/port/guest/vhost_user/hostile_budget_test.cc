// How much memory a front-end can make the daemon map, and of which kind.
#include <fcntl.h>
#include <linux/memfd.h>

#include <future>

#include "port/guest/vhost_user/vhost_fixture.h"

namespace sluice::test {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kTiB = std::uint64_t{1} << 40;

class Malicious_MemoryBudget : public VhostTest {
 protected:
  std::optional<std::uint64_t> add(FrontEnd& front, const vhost_user_region& one, int fd) {
    return front.tell(VHOST_USER_ADD_MEM_REG, vhost_user_mem_reg{0, one}, std::span(&fd, 1));
  }
  std::optional<std::uint64_t> remove(FrontEnd& front, const vhost_user_region& one) {
    return front.tell(VHOST_USER_REM_MEM_REG, vhost_user_mem_reg{0, one});
  }
  static vhost_user_region region(std::uint64_t guest, std::uint64_t bytes, std::uint64_t offset = 0) {
    return {.guest_address = guest, .bytes = bytes, .user_address = guest, .file_offset = offset};
  }
  // A file with nothing in it.
  static UniqueFd sparse(std::uint64_t bytes, unsigned flags = 0) {
    UniqueFd file(::memfd_create("guest-ram", MFD_CLOEXEC | flags));
    EXPECT_EQ(::ftruncate(file.get(), static_cast<off_t>(bytes)), 0);
    return file;
  }
  std::uint64_t mapped() const { return port->vhost().mapped_bytes; }
};

// The closer has something else to do, as when it takes a large guest's memory apart.
class BusyCloser {
 public:
  BusyCloser() {
    Closer::of_process().run([released = released_.get_future().share()] { released.wait(); });
  }
  ~BusyCloser() { release(); }
  void release() {
    if (!std::exchange(is_released_, true)) {
      released_.set_value();
      Closer::of_process().drain();
    }
  }

 private:
  std::promise<void> released_;
  bool is_released_ = false;
};

TEST_F(Malicious_MemoryBudget, RegionsAreBoundedTogetherWhenTheyComeOneByOneToo) {
  options.memory_bytes = 4 * kMiB;
  start();
  {
    FrontEnd front = connect();
    UniqueFd file = sparse(kTiB);
    EXPECT_EQ(add(front, region(0, kTiB), file.get()), 1u);
    for (std::uint64_t i = 0; i < 4; ++i) {
      EXPECT_EQ(add(front, region(i * kMiB, kMiB, i * kMiB), file.get()), 0u);
    }
    EXPECT_EQ(add(front, region(4 * kMiB, 1, 4 * kMiB), file.get()), 1u) << "not a byte more";
    EXPECT_EQ(counter("fault_memory_budget"), 2u);
    EXPECT_EQ(port->vhost().memory_bytes, 4 * kMiB);
    EXPECT_EQ(remove(front, region(0, kMiB)), 0u);
    EXPECT_EQ(add(front, region(4 * kMiB, kMiB, 4 * kMiB), file.get()), 0u) << "room that was given back";
  }
  expect_unharmed();
}

TEST_F(Malicious_MemoryBudget, WholePagesCountAlsoForRegionsOfAByte) {
  options.memory_bytes = 64 << 10;
  start();
  FrontEnd front = connect();
  UniqueFd file = sparse(kMiB);
  for (std::uint64_t i = 0; i < 16; ++i) {
    EXPECT_EQ(add(front, region(i, 1), file.get()), 0u);
  }
  EXPECT_EQ(add(front, region(16, 1), file.get()), 1u);
  EXPECT_EQ(add(front, region(20, 2, 4095), file.get()), 1u) << "two bytes in two pages";
  EXPECT_EQ(counter("fault_memory_budget"), 2u);
}

TEST_F(Malicious_MemoryBudget, ATableIsJudgedAsAWholeBeforeAnythingIsMapped) {
  options.memory_bytes = 4 * kMiB;
  start();
  {
    FrontEnd front = connect();
    UniqueFd file = sparse(kTiB);
    vhost_user_mem_table table{};
    table.region_count = 8;
    for (std::uint64_t i = 0; i < 8; ++i) {
      table.regions[i] = region(i * kTiB, i == 7 ? kTiB : 4096);
    }
    const std::vector<int> fds(8, file.get());
    const std::size_t mappings = guest_mappings();
    EXPECT_EQ(front.ask_bytes(VHOST_USER_SET_MEM_TABLE, std::as_bytes(std::span(&table, 1)), fds,
                              VHOST_USER_VERSION | VHOST_USER_NEED_REPLY),
              1u);
    EXPECT_EQ(counter("fault_memory_budget"), 1u);
    EXPECT_EQ(guest_mappings(), mappings);
    // Sums that wrap: 2^63 - 4096 bytes are the most that a file may have.
    UniqueFd huge = sparse(0x7ffffffffffff000);
    for (std::uint64_t i = 0; i < 8; ++i) {
      table.regions[i] = region(0, 0x7ffffffffffff000);
    }
    const std::vector<int> many(8, huge.get());
    EXPECT_EQ(front.ask_bytes(VHOST_USER_SET_MEM_TABLE, std::as_bytes(std::span(&table, 1)), many,
                              VHOST_USER_VERSION | VHOST_USER_NEED_REPLY),
              1u);
    EXPECT_EQ(counter("fault_memory_budget"), 2u);
  }
  expect_unharmed();
}

TEST_F(Malicious_MemoryBudget, AllGuestsTogetherAreBounded) {
  options.all_memory = std::make_shared<MemoryBudget>(12 * kMiB);  // 4 are the bystander's
  start();
  {
    FrontEnd front = connect();
    UniqueFd file = sparse(kTiB);
    EXPECT_EQ(add(front, region(0, 6 * kMiB), file.get()), 0u);
    EXPECT_EQ(add(front, region(16 * kMiB, 3 * kMiB), file.get()), 1u);
    EXPECT_EQ(counter("fault_memory_budget"), 1u);
    EXPECT_EQ(add(front, region(16 * kMiB, 2 * kMiB), file.get()), 0u) << "to the last byte";
    EXPECT_EQ(options.all_memory->used(), 12 * kMiB);
  }
  ASSERT_TRUE(turn_until([&] { return !port->vhost().connected; }));
  Closer::of_process().drain();
  EXPECT_EQ(options.all_memory->used(), 4 * kMiB);
  expect_unharmed();
}

TEST_F(Malicious_MemoryBudget, BytesAreGivenBackWhenTheMappingHasReallyEnded) {
  start();
  {
    BusyCloser closer;
    {
      FrontEnd front = connect();
      UniqueFd file = sparse(kMiB);
      EXPECT_EQ(add(front, region(0, kMiB), file.get()), 0u);
    }
    ASSERT_TRUE(turn_until([&] { return !port->vhost().connected; }));
    EXPECT_EQ(mapped(), kMiB);
    closer.release();
    EXPECT_EQ(mapped(), 0u);
  }
  expect_unharmed();
}

// QEMU says its whole table again when memory is plugged in.
TEST_F(Malicious_MemoryBudget, TheSameTableAgainIsNoSecondMemory) {
  options.memory_bytes = 4 * kMiB;
  start();
  {
    FrontEnd front = connect();
    GoodGuest guest;
    guest.bring_up(front);
    const GuestRam* rams[] = {&guest.ram};
    for (int i = 0; i < 100; ++i) {
      ASSERT_TRUE(front.send_table(rams));
    }
    EXPECT_TRUE(front.barrier());
    EXPECT_EQ(counter("fault_memory_budget"), 0u);
    EXPECT_TRUE(carries(guest));
  }
  expect_unharmed();
}

TEST_F(Malicious_MemoryBudget, TablesThatComeFasterThanTheyGoWaitAndNobodyElseDoes) {
  options.memory_bytes = 4 * kMiB;
  start();
  {
    BusyCloser closer;
    FrontEnd front = connect();
    GoodGuest guest;
    guest.bring_up(front);
    const GuestRam* rams[] = {&guest.ram};
    for (int i = 0; i < 100; ++i) {
      ASSERT_TRUE(front.send_table(rams));
    }
    EXPECT_TRUE(turn_until([&] { return counter("memory_deferred") > 0; }));
    EXPECT_LE(mapped(), 3 * options.memory_bytes);
    EXPECT_TRUE(bystander_front().barrier());
    EXPECT_TRUE(carries(guest)) << "its own rings go on too";
    closer.release();
    EXPECT_TRUE(front.barrier());
  }
  expect_unharmed();
}

TEST_F(Malicious_MemoryBudget, MemoryThatCanShrinkIsRefusedWhereItMustBeSealed) {
  options.sealed_memory = true;
  start();
  FrontEnd front = connect();
  UniqueFd plain = sparse(kMiB);
  UniqueFd not_yet = sparse(kMiB, MFD_ALLOW_SEALING);
  UniqueFd other_seal = sparse(kMiB, MFD_ALLOW_SEALING);
  UniqueFd sealed = sparse(kMiB, MFD_ALLOW_SEALING);
  UniqueFd in_tmpfs(::open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_EQ(::fcntl(other_seal.get(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SEAL), 0);
  ASSERT_EQ(::fcntl(sealed.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
  std::uint64_t refused = 0;
  for (int fd : {plain.get(), not_yet.get(), other_seal.get(), in_tmpfs.get()}) {
    if (fd < 0 || ::ftruncate(fd, kMiB) < 0) {
      continue;  // no /dev/shm here
    }
    EXPECT_EQ(add(front, region(0, kMiB), fd), 1u);
    EXPECT_EQ(counter("fault_memory_unsealed"), ++refused);
  }
  EXPECT_GE(refused, 3u);
  EXPECT_EQ(add(front, region(0, kMiB), sealed.get()), 0u);
  EXPECT_LT(::ftruncate(sealed.get(), 0), 0);
}

TEST_F(Malicious_MemoryBudget, PagesThatTakeLongToClearAreRefused) {
  start();
  {
    UniqueFd file(::memfd_create("guest-ram", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_1GB));
    if (!file || ::ftruncate(file.get(), 1 << 30) < 0) {
      GTEST_SKIP() << "this machine has no pages of 1 GiB";
    }
    FrontEnd front = connect();
    EXPECT_EQ(add(front, region(0, 1 << 30), file.get()), 1u);
    EXPECT_EQ(counter("fault_memory_page_size"), 1u);
  }
  expect_unharmed();
}

// Not even its end finds memory at first.
TEST_F(Malicious_MemoryBudget, AMessageThatFindsNoMemoryEndsItsSessionAndNothingElse) {
  start();
  for (std::uint32_t failures : {1u, 2u, 4u}) {
    FrontEnd front = connect();
    GoodGuest guest;
    guest.bring_up(front);
    ASSERT_TRUE(front.barrier());
    host.out_of_memory = failures;
    front.enable(0, false);
    EXPECT_TRUE(front.wait_closed());
    EXPECT_TRUE(bystander_front().barrier());
    EXPECT_TRUE(turn_until([&] { return !port->vhost().connected && port->vhost().mapped_bytes == 0; }));
    EXPECT_EQ(host.out_of_memory, 0u);
  }
  EXPECT_EQ(loop->out_of_memory(), 3u);
  expect_unharmed();
}

}  // namespace
}  // namespace sluice::test
