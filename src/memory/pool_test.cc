#include "memory/pool.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <deque>
#include <random>
#include <set>
#include <vector>

#include "memory/walk.h"

namespace sluice {
namespace {

using test::CounterMap;

Arena make_arena(std::uint32_t pages = 256) {
  return Arena::create({.name = "test", .page_count = pages, .huge = ArenaOptions::Huge::kNever}).value();
}

std::unique_ptr<PagePool> make_pool(const Arena& arena, PagePoolOptions options) {
  options.name = "test:0";
  auto pool = PagePool::create(arena, options);
  EXPECT_TRUE(pool) << pool.error().message;
  return std::move(*pool);
}

CounterMap counters(const PagePool& pool) {
  CounterMap map;
  pool.visit(map);
  return map;
}

TEST(PagePool, LendsEachPageToOneHolderOnly) {
  Arena arena = make_arena();
  auto pool = make_pool(arena, {.first = PageIndex{10}, .page_count = 20});
  std::vector<PageIndex> pages(20);
  ASSERT_EQ(pool->alloc_bulk(pages), 20u);
  std::set<PageIndex> distinct(pages.begin(), pages.end());
  EXPECT_EQ(distinct.size(), 20u);
  EXPECT_EQ(*distinct.begin(), PageIndex{10});
  EXPECT_EQ(*distinct.rbegin(), PageIndex{29});
  EXPECT_EQ(pool->alloc(), PageIndex::kNone);
  pool->release_bulk(pages);
}

TEST(PagePool, GivesOutTheHottestPageFirst) {
  Arena arena = make_arena();
  auto pool = make_pool(arena, {.page_count = 8});
  PageIndex one = pool->alloc(), two = pool->alloc();
  pool->release(one);
  pool->release(two);
  EXPECT_EQ(pool->alloc(), two);
  EXPECT_EQ(pool->alloc(), one);
  pool->release_bulk(std::vector{one, two});
}

// What a NIC's queue does: pages go to the kernel in bulks, and come back in that order, any number at a
// time.
TEST(PagePool, KeepsNeighboursTogetherWhateverComesHomeAtATime) {
  constexpr std::size_t kPosted = 256, kBulk = 64;
  Arena arena = make_arena(1000);
  auto pool = make_pool(arena, {.page_count = 1000, .reuse = PagePoolOptions::Reuse::kOldestFirst});
  std::deque<PageIndex> posted;
  std::mt19937 random(1);
  int pages = 0, behind_their_neighbour = 0;
  for (int round = 0; round < 2000; ++round) {
    while (posted.size() + kBulk <= kPosted) {
      std::array<PageIndex, kBulk> bulk;
      ASSERT_EQ(pool->alloc_bulk(bulk), kBulk);
      for (PageIndex page : bulk) {
        behind_their_neighbour += !posted.empty() && raw(page) == raw(posted.back()) + 1 ? 1 : 0;
        ++pages;
        posted.push_back(page);
      }
    }
    const auto received = static_cast<std::ptrdiff_t>(1 + random() % kBulk);
    pool->release_bulk(std::vector(posted.begin(), posted.begin() + received));
    posted.erase(posted.begin(), posted.begin() + received);
  }
  EXPECT_GT(behind_their_neighbour, pages * 9 / 10) << "of " << pages;
  pool->release_bulk(std::vector(posted.begin(), posted.end()));
}

TEST(PagePool, FewPagesGoRoundAgainAfterManyWereOut) {
  Arena arena = make_arena(1000);
  auto pool = make_pool(arena, {.page_count = 1000, .reuse = PagePoolOptions::Reuse::kOldestFirst});
  std::vector<PageIndex> all(1000), bulk(64);
  ASSERT_EQ(pool->alloc_bulk(all), 1000u);
  pool->release_bulk(all);
  std::set<PageIndex> go_round;
  for (int round = 0; round < 100; ++round) {
    if (round == 50) {
      go_round.clear();
    }
    ASSERT_EQ(pool->alloc_bulk(bulk), 64u);
    go_round.insert(bulk.begin(), bulk.end());
    pool->release_bulk(bulk);
  }
  EXPECT_LE(go_round.size(), 256u);
  ASSERT_EQ(pool->alloc_bulk(all), 1000u) << "what was put aside is there when it is needed";
  EXPECT_EQ(std::set<PageIndex>(all.begin(), all.end()).size(), 1000u);
  pool->release_bulk(all);
}

TEST(PagePool, NeverHasMorePagesInFlightThanItsLimit) {
  Arena arena = make_arena();
  auto pool = make_pool(arena, {.page_count = 100, .limit = 7});
  std::vector<PageIndex> pages(50, PageIndex::kNone);
  EXPECT_EQ(pool->alloc_bulk(pages), 7u);
  EXPECT_EQ(pages[7], PageIndex::kNone);
  EXPECT_EQ(pool->inflight(), 7u);
  EXPECT_EQ(pool->alloc(), PageIndex::kNone);
  EXPECT_EQ(counters(*pool)["alloc_limit"], 44u);
  pool->release(pages[0]);
  EXPECT_EQ(pool->alloc(), pages[0]);
  pool->release_bulk({pages.data(), 7});
}

TEST(PagePool, IsUnderPressureFromItsWatermarkOn) {
  Arena arena = make_arena();
  auto pool = make_pool(arena, {.page_count = 8});
  EXPECT_EQ(pool->watermark(), 6u);
  std::vector<PageIndex> pages(6);
  pool->alloc_bulk({pages.data(), 5});
  EXPECT_FALSE(pool->under_pressure());
  pages[5] = pool->alloc();
  EXPECT_TRUE(pool->under_pressure());
  pool->release_bulk(pages);
  EXPECT_FALSE(pool->under_pressure());
  EXPECT_EQ(make_pool(arena, {.page_count = 1})->watermark(), 1u);
}

TEST(PagePool, TakesBackWhatOtherThreadsReturned) {
  Arena arena = make_arena();
  auto pool = make_pool(arena, {.page_count = 4});
  std::vector<PageIndex> pages(4);
  ASSERT_EQ(pool->alloc_bulk(pages), 4u);
  EXPECT_EQ(pool->release_remote(pages), 4u);
  EXPECT_EQ(pool->inflight(), 0u);
  EXPECT_NE(pool->alloc(), PageIndex::kNone);  // one by one: looks into the ring when the cache is empty
  EXPECT_EQ(pool->alloc_bulk(pages), 3u);
  EXPECT_EQ(pool->release_remote({pages.data(), 3}), 3u);
  EXPECT_EQ(pool->alloc_bulk({pages.data(), 3}), 3u);
  EXPECT_EQ(counters(*pool)["alloc_refill"], 2u);
  std::vector<PageIndex> all{PageIndex{0}, PageIndex{1}, PageIndex{2}, PageIndex{3}};
  pool->release_bulk(all);
}

TEST(PagePool, KeepsTheOverflowOfItsReturnRingWithTheCaller_D6) {
  Arena arena = make_arena();
  auto pool = make_pool(arena, {.page_count = 8, .return_ring = 4});
  std::vector<PageIndex> pages(7);
  pool->alloc_bulk(pages);
  EXPECT_EQ(pool->release_remote(pages), 4u);
  EXPECT_EQ(pool->inflight(), 3u);
  EXPECT_EQ(pool->release_remote({pages.data() + 4, 3}), 0u);
  EXPECT_EQ(counters(*pool)["recycle_ring_full"], 6u);
  pool->collect();
  EXPECT_EQ(pool->release_remote({pages.data() + 4, 3}), 3u);
  EXPECT_EQ(pool->inflight(), 0u);
}

TEST(PagePool, CountsWhatItDidByTheKernelsNames) {
  Arena arena = make_arena();
  auto pool = make_pool(arena, {.page_count = 8});
  std::vector<PageIndex> pages(3);
  pool->alloc_bulk(pages);    // slow: never used before
  pool->release_bulk(pages);  // cached
  pool->alloc_bulk(pages);    // fast
  pool->release_remote({pages.data(), 2});
  pool->collect();  // refill
  CounterMap now = counters(*pool);
  EXPECT_EQ(now["alloc_slow"], 3u);
  EXPECT_EQ(now["alloc_empty"], 1u);
  EXPECT_EQ(now["alloc_fast"], 3u);
  EXPECT_EQ(now["alloc_refill"], 1u);
  EXPECT_EQ(now["recycle_cached"], 3u);
  EXPECT_EQ(now["recycle_ring"], 2u);
  EXPECT_EQ(now["held"], 6u);
  EXPECT_EQ(now["released"], 5u);
  EXPECT_EQ(now["inflight"], 1u);
  EXPECT_EQ(now["limit"], 8u);
  pool->release(pages[2]);
}

TEST(PagePool, RefusesOptionsThatCannotBeAndSaysWhatCan) {
  Arena arena = make_arena(16);
  auto message = [&](PagePoolOptions options) {
    options.name = "p";
    auto pool = PagePool::create(arena, options);
    return pool ? std::string("made") : pool.error().message;
  };
  EXPECT_EQ(message({.page_count = 0}), "pool p: pages 0 .. 0 do not lie in its arena of 16 pages");
  EXPECT_EQ(message({.first = PageIndex{10}, .page_count = 7}),
            "pool p: pages 10 .. 17 do not lie in its arena of 16 pages");
  EXPECT_EQ(message({.first = PageIndex{0xfffffff0}, .page_count = 0x20}),
            "pool p: pages 4294967280 .. 4294967312 do not lie in its arena of 16 pages");
  EXPECT_EQ(message({.page_count = 8, .limit = 9}), "pool p: limit 9 is more than its 8 pages");
  EXPECT_EQ(message({.page_count = 8, .watermark = 9}),
            "pool p: watermark 9 is above the limit of 8 pages and would never be reached");
  EXPECT_EQ(message({.page_count = 8, .return_ring = 48}),
            "pool p: return_ring is 48; it must be a power of two, 2 .. 16777216");
  EXPECT_EQ(message({.first = PageIndex{10}, .page_count = 6, .limit = 6, .watermark = 6, .return_ring = 2}),
            "made");
}

TEST(PagePoolDeathTest, OurOwnBugsStopUs) {
  Arena arena = make_arena();
  auto pool = make_pool(arena, {.first = PageIndex{8}, .page_count = 16});
  PageIndex page = pool->alloc();
  std::vector<PageIndex> foreign{PageIndex{7}}, later{PageIndex{9}}, twice{page, page}, behind{PageIndex{24}};
  EXPECT_DEATH(pool->release(PageIndex{7}), "page 7 was never given out");
  EXPECT_DEATH(pool->release(PageIndex::kNone), "was never given out");
  EXPECT_DEATH(pool->release_bulk(foreign), "page 7 was never given out");
  EXPECT_DEATH(pool->release_bulk(later), "page 9 was never given out");
  EXPECT_DEATH(pool->release_bulk(twice), "2 pages come home, held 1, released 0: one comes home twice");
  EXPECT_DEATH(pool->release_remote(behind), "page 24 is not one of its own");
  EXPECT_DEATH((pool->release(page), pool->release(page)),
               "1 pages come home, held 1, released 1: one comes home twice");
  EXPECT_DEATH((pool->release_remote(twice), pool->collect()), "held 1, released 2: one comes home twice");
  EXPECT_DEATH(pool.reset(), "pool test:0: destroyed with 1 pages in flight");
  pool->release(page);
}

TEST(PagePool, ReleasingNothingIsNothing) {
  Arena arena = make_arena();
  auto pool = make_pool(arena, {.page_count = 4});
  pool->release_bulk({});
  EXPECT_EQ(pool->release_remote({}), 0u);
  EXPECT_EQ(pool->alloc_bulk({}), 0u);
  EXPECT_EQ(counters(*pool)["recycle_ring_full"], 0u);
  EXPECT_EQ(counters(*pool)["alloc_empty"], 0u);
  EXPECT_EQ(pool->inflight(), 0u);
}

TEST(PagePool, Model_ARandomWalkAgreesWithASetOfPages) {
  Arena arena = make_arena();
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    std::fprintf(stderr, "seed %llu\n", static_cast<unsigned long long>(seed));
    test::RandomChoices choices(seed, 3000);
    test::PoolWalk(arena, choices).run();
  }
}

}  // namespace
}  // namespace sluice
