// The pool between threads; what ThreadSanitizer is to look at.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "memory/pool.h"
#include "memory/pool_bench.h"
#include "memory/walk.h"

namespace sluice {
namespace {

constexpr std::uint32_t kPages = 64;

Arena make_arena() {
  return Arena::create({.name = "test", .page_count = kPages, .huge = ArenaOptions::Huge::kNever}).value();
}

std::unique_ptr<PagePool> make_pool(const Arena& arena, std::uint32_t ring) {
  return PagePool::create(arena, {.name = "threads", .page_count = kPages, .return_ring = ring}).value();
}

using Channel = bench::Handover<PageIndex, 64>;

// Each reader checks what the owner wrote into a page, scribbles over it and returns it. No page byte is
// atomic: only the pool's own ordering [label: page home] keeps the owner's next writing apart from the
// reader's.
void read_and_return(const Arena& arena, PagePool& pool, Channel& channel, std::uint32_t count) {
  PageIndex pages[16];
  while (count != 0) {
    std::uint32_t got = channel.pop(pages, 16);
    for (std::uint32_t i = 0; i < got; ++i) {
      std::byte* page = arena.page(pages[i]);
      EXPECT_EQ(page[0], page[1]);
      page[0] = std::byte{0xff};
      page[1] = std::byte{0x00};
    }
    for (std::uint32_t done = 0; done < got;) {
      std::uint32_t fitted = pool.release_remote({pages + done, got - done});
      done += fitted;
      if (fitted == 0) {
        std::this_thread::yield();
      }
    }
    if (got == 0) {
      std::this_thread::yield();
    }
    count -= got;
  }
}

void lend_to_readers(std::uint32_t readers, std::uint32_t ring, std::uint32_t per_reader) {
  Arena arena = make_arena();
  auto pool = make_pool(arena, ring);
  std::vector<std::unique_ptr<Channel>> channels;
  std::vector<std::thread> threads;
  for (std::uint32_t i = 0; i < readers; ++i) {
    channels.push_back(std::make_unique<Channel>());
    threads.emplace_back([&arena, &pool, channel = channels[i].get(), per_reader] {
      read_and_return(arena, *pool, *channel, per_reader);
    });
  }
  for (std::uint32_t round = 0; round < readers * per_reader; ++round) {
    PageIndex page;
    while ((page = pool->alloc()) == PageIndex::kNone) {
      std::this_thread::yield();
    }
    arena.page(page)[0] = arena.page(page)[1] = static_cast<std::byte>(round);
    while (!channels[round % readers]->push(&page, 1)) {
      std::this_thread::yield();
    }
  }
  while (pool->inflight() != 0) {  // an owner that allocates no more still makes room for returns
    pool->collect();
    std::this_thread::yield();
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_TRUE(pool->idle());
  test::CounterMap counters;
  pool->visit(counters);
  EXPECT_EQ(counters["held"], readers * per_reader);
  EXPECT_EQ(counters["recycle_ring"], readers * per_reader);
}

TEST(PagePool, OneOtherThreadReturnsPages) {
  lend_to_readers(1, 64, 60'000);
}
TEST(PagePool, ThreeOtherThreadsReturnPagesAtOnce) {
  lend_to_readers(3, 64, 20'000);
}
TEST(PagePool, ThreeOtherThreadsShareARingThatIsMostlyFull) {
  lend_to_readers(3, 4, 20'000);
}

// The owner goes through these states only, whatever of collecting and recycling goes on between them.
TEST(PagePool, OtherThreadsReadAnExactInflight) {
  Arena arena = make_arena();
  auto pool = make_pool(arena, 4);
  PageIndex base[10];
  ASSERT_EQ(pool->alloc_bulk(base), 10u);
  PageIndex warm[20];  // so that each step below is one store: from the cache, no page for the first time
  ASSERT_EQ(pool->alloc_bulk(warm), 20u);
  pool->release_bulk(warm);
  std::atomic<bool> done{false};
  std::uint64_t looks = 0, wrong = 0;
  std::thread observer([&] {
    while (!done.load(std::memory_order_relaxed) || looks < 1000) {
      std::uint32_t inflight = pool->inflight();
      wrong += inflight != 10 && inflight != 11 && inflight != 15 ? 1 : 0;
      ++looks;
    }
  });
  for (int i = 0; i < 100'000; ++i) {
    PageIndex five[5];
    ASSERT_EQ(pool->alloc_bulk(five), 5u);
    pool->release_bulk(five);
    PageIndex page = pool->alloc();
    ASSERT_EQ(pool->release_remote({&page, 1}), 1u);
    if (i % 3 == 0) {
      pool->collect();
    }
  }
  done.store(true);
  observer.join();
  EXPECT_EQ(wrong, 0u) << "of " << looks;
  pool->release_bulk(base);
}

}  // namespace
}  // namespace sluice
