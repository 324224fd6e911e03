#include "memory/retired.h"

#include <gtest/gtest.h>

#include <thread>

#include "memory/memory_test_tools.h"

namespace sluice {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

struct Session {
  std::shared_ptr<Arena> arena = std::make_shared<Arena>(
      Arena::create({.name = "retired", .page_count = 64, .huge = ArenaOptions::Huge::kNever}).value());
  std::shared_ptr<Ledger> ledger = std::make_shared<Ledger>(arena->page_count());
  std::unique_ptr<PagePool> pool = PagePool::create(*arena, {.name = "dns/0", .page_count = 64}).value();

  void retire(RetiredPools& retired, std::uint64_t now) {
    retired.add(std::move(pool), std::move(arena), std::move(ledger), now);
  }
};

TEST(RetiredPools, DestroysAtOnceAPoolWhosePagesAreAllHome) {
  auto before = test::Holdings::now();
  RetiredPools retired;
  Session session;
  session.pool->release(session.pool->alloc());
  session.retire(retired, 0);
  EXPECT_EQ(retired.turn(0), 1u);
  EXPECT_EQ(retired.count(), 0u);
  EXPECT_EQ(test::Holdings::now(), before);
}

TEST(RetiredPools, KeepsPoolAndArenaUntilTheLastPageIsHome_D7) {
  RetiredPools retired;
  Session session;
  std::weak_ptr<Arena> arena = session.arena;
  PagePool* pool = session.pool.get();
  PageIndex pages[2];
  ASSERT_EQ(pool->alloc_bulk(pages), 2u);
  session.retire(retired, 0);
  EXPECT_EQ(retired.turn(kSecond), 0u);
  EXPECT_EQ(pool->release_remote({pages, 1}), 1u);
  EXPECT_EQ(retired.turn(2 * kSecond), 0u);
  EXPECT_FALSE(arena.expired());
  EXPECT_EQ(pool->release_remote({pages + 1, 1}), 1u);
  EXPECT_EQ(retired.turn(3 * kSecond), 1u);
  EXPECT_TRUE(arena.expired());
}

TEST(RetiredPools, SaysEveryMinuteWhoHoldsThePages) {
  std::vector<std::string> said;
  RetiredPools retired([&](const StalledPool& stalled) { said.push_back(to_string(stalled)); });
  Session session;
  PagePool* pool = session.pool.get();
  PageIndex pages[6];
  ASSERT_EQ(pool->alloc_bulk(pages), 6u);
  for (int i = 0; i < 3; ++i) {
    session.ledger->lend(pages[i], PortId{5});
  }
  session.ledger->lend(pages[3], PortId{9});
  session.retire(retired, 100 * kSecond);
  retired.turn(159 * kSecond);
  EXPECT_TRUE(said.empty());
  retired.turn(161 * kSecond);
  retired.turn(219 * kSecond);
  retired.turn(222 * kSecond);
  EXPECT_EQ(said, (std::vector<std::string>{
                      "pool dns/0: shutdown waits for 6 pages since 61 s: port 5 holds 3, port 9 holds 1, "
                      "2 lent to no port (a NIC's rings, or on their way home)",
                      "pool dns/0: shutdown waits for 6 pages since 122 s: port 5 holds 3, port 9 holds 1, "
                      "2 lent to no port (a NIC's rings, or on their way home)"}));
  auto waiting = retired.waiting(130 * kSecond);
  ASSERT_EQ(waiting.size(), 1u);
  EXPECT_EQ(waiting[0].inflight, 6u);
  EXPECT_EQ(waiting[0].waiting_ns, 30 * kSecond);
  pool->release_remote(pages);
  EXPECT_EQ(retired.turn(223 * kSecond), 1u);
}

TEST(RetiredPools, MakesRoomForReturnsThatDoNotFitTheRing) {
  RetiredPools retired;
  Session session;
  session.pool =
      PagePool::create(*session.arena, {.name = "dns/0", .page_count = 64, .return_ring = 2}).value();
  PagePool* pool = session.pool.get();
  PageIndex pages[5];
  ASSERT_EQ(pool->alloc_bulk(pages), 5u);
  session.retire(retired, 0);
  std::uint32_t home = 0;
  for (int turn = 0; turn < 3; ++turn) {
    home += pool->release_remote({pages + home, 5 - home});
    EXPECT_EQ(retired.turn(kSecond), turn == 2 ? 1u : 0u);
  }
  EXPECT_EQ(home, 5u);
}

// The last page comes from a thread that may still be in the middle of release_remote() when the count is
// zero.
TEST(RetiredPools, Crash_NeverDestroysAPoolUnderAReturnThatIsUnderWay_D7) {
  for (int round = 0; round < 200; ++round) {
    RetiredPools retired;
    Session session;
    PagePool* pool = session.pool.get();
    PageIndex pages[64];
    ASSERT_EQ(pool->alloc_bulk(pages), 64u);
    session.retire(retired, 0);
    std::thread first([&] { pool->release_remote({pages, 32}); });
    std::thread second([&] { pool->release_remote({pages + 32, 32}); });
    while (retired.turn(0) == 0) {
    }
    first.join();
    second.join();
  }
}

TEST(RetiredPoolsDeathTest, RefusesToForgetAPoolWithPagesOut) {
  EXPECT_DEATH(
      {
        RetiredPools retired;
        Session session;
        session.pool->alloc();
        session.retire(retired, 0);
      },
      "pool dns/0: shutdown waits for 1 pages");
}

}  // namespace
}  // namespace sluice
