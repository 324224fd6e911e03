#include "memory/retired.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "memory/arena.h"

namespace sluice {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

struct Closed {
  Arena arena =
      Arena::create({.name = "retired", .page_count = 64, .huge = ArenaOptions::Huge::kNever}).value();
  std::unique_ptr<PagePool> pool = make_pool();
  int home = 0;

  std::unique_ptr<PagePool> make_pool(std::uint32_t return_ring = 64) const {
    return PagePool::create(arena, {.name = "eth1:0", .page_count = 64, .return_ring = return_ring}).value();
  }
  void retire(RetiredPools& retired, std::uint64_t now) {
    retired.add(
        std::move(pool),
        [this](std::unique_ptr<PagePool> done) {
          EXPECT_TRUE(done->idle());
          ++home;
        },
        now);
  }
};

TEST(RetiredPools, APoolWhosePagesAreAllHomeIsGivenBackAtOnce) {
  RetiredPools retired;
  Closed queue;
  queue.pool->release(queue.pool->alloc());
  queue.retire(retired, 0);
  EXPECT_EQ(retired.count("eth1:0"), 1u);
  EXPECT_EQ(retired.count("eth1:1"), 0u);
  EXPECT_EQ(retired.turn(0), 1u);
  EXPECT_EQ(retired.count(), 0u);
  EXPECT_EQ(queue.home, 1);
}

TEST(RetiredPools, KeepsThePoolUntilTheLastPageIsHome_D7) {
  RetiredPools retired;
  Closed queue;
  PagePool* pool = queue.pool.get();
  PageIndex pages[2];
  ASSERT_EQ(pool->alloc_bulk(pages), 2u);
  queue.retire(retired, 0);
  EXPECT_EQ(retired.turn(kSecond), 0u);
  EXPECT_EQ(pool->release_remote({pages, 1}), 1u);
  EXPECT_EQ(retired.turn(2 * kSecond), 0u);
  EXPECT_EQ(queue.home, 0);
  EXPECT_EQ(pool->release_remote({pages + 1, 1}), 1u);
  EXPECT_EQ(retired.turn(3 * kSecond), 1u);
  EXPECT_EQ(queue.home, 1);
}

TEST(RetiredPools, SaysEveryMinuteHowManyPagesItWaitsFor) {
  std::vector<std::string> said;
  RetiredPools retired([&](const StalledPool& stalled) { said.push_back(to_string(stalled)); });
  Closed queue;
  PagePool* pool = queue.pool.get();
  PageIndex pages[6];
  ASSERT_EQ(pool->alloc_bulk(pages), 6u);
  queue.retire(retired, 100 * kSecond);
  retired.turn(159 * kSecond);
  EXPECT_TRUE(said.empty());
  retired.turn(161 * kSecond);
  retired.turn(219 * kSecond);
  pool->release_remote({pages, 2});
  retired.turn(222 * kSecond);
  EXPECT_EQ(said, (std::vector<std::string>{
                      "pool eth1:0: closed, and waits for 6 pages in other NICs' TX rings since 61 s",
                      "pool eth1:0: closed, and waits for 4 pages in other NICs' TX rings since 122 s"}));
  pool->release_remote({pages + 2, 4});
  EXPECT_EQ(retired.turn(223 * kSecond), 1u);
}

TEST(RetiredPools, MakesRoomForReturnsThatDoNotFitTheRing) {
  RetiredPools retired;
  Closed queue;
  queue.pool = queue.make_pool(2);
  PagePool* pool = queue.pool.get();
  PageIndex pages[5];
  ASSERT_EQ(pool->alloc_bulk(pages), 5u);
  queue.retire(retired, 0);
  std::uint32_t home = 0;
  for (int turn = 0; turn < 3; ++turn) {
    home += pool->release_remote({pages + home, 5 - home});
    EXPECT_EQ(retired.turn(kSecond), turn == 2 ? 1u : 0u);
  }
  EXPECT_EQ(home, 5u);
}

// The last page comes from a thread that may still be in the middle of release_remote() when the count is
// zero.
TEST(RetiredPools, Crash_NeverGivesBackAPoolUnderAReturnThatIsUnderWay_D7) {
  for (int round = 0; round < 200; ++round) {
    RetiredPools retired;
    Closed queue;
    PagePool* pool = queue.pool.get();
    PageIndex pages[64];
    ASSERT_EQ(pool->alloc_bulk(pages), 64u);
    queue.retire(retired, 0);
    std::thread first([&] { pool->release_remote({pages, 32}); });
    std::thread second([&] { pool->release_remote({pages + 32, 32}); });
    while (retired.turn(0) == 0) {
    }
    first.join();
    second.join();
  }
}

TEST(RetiredPoolsDeathTest, RefusesToForgetAPoolWithPagesOut) {
  Closed queue;
  EXPECT_DEATH(
      {
        RetiredPools retired;
        queue.pool->alloc();
        queue.retire(retired, 0);
      },
      "pool eth1:0: closed, and waits for 1 pages");
}

}  // namespace
}  // namespace sluice
