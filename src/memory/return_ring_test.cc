#include "memory/return_ring.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace sluice {
namespace {

TEST(ReturnRing, KeepsItsOrderOverManyLaps) {
  ReturnRing ring(PageIndex{1000}, 4);
  std::uint32_t next_in = 0, next_out = 0;
  for (int round = 0; round < 100; ++round) {
    PageIndex pages[3] = {PageIndex{1000 + next_in % 7}, PageIndex{1000 + (next_in + 1) % 7},
                          PageIndex{1000 + (next_in + 2) % 7}};
    ASSERT_EQ(ring.push(pages), 3u);
    next_in += 3;
    std::uint32_t out[4];
    ASSERT_EQ(ring.pop(out, 4), 3u);
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(out[i], 1000 + next_out++ % 7);
    }
    EXPECT_TRUE(ring.empty());
    EXPECT_TRUE(ring.all_filled());
  }
  EXPECT_EQ(ring.taken(), 300u);
  EXPECT_EQ(ring.emptied(), 300u);
}

TEST(ReturnRing, TakesTheFrontOfWhatDoesNotFit) {
  ReturnRing ring(PageIndex{0}, 4);
  std::vector<PageIndex> pages{PageIndex{5}, PageIndex{6}, PageIndex{7}, PageIndex{8}, PageIndex{9}};
  EXPECT_EQ(ring.push({pages.data(), 3}), 3u);
  EXPECT_EQ(ring.push({pages.data() + 3, 2}), 1u);
  EXPECT_EQ(ring.push({pages.data() + 4, 1}), 0u);
  EXPECT_EQ(ring.refused(), 2u);
  std::uint32_t out[8];
  EXPECT_EQ(ring.pop(out, 2), 2u);  // no more than there is room for
  EXPECT_EQ(ring.pop(out + 2, 8), 2u);
  EXPECT_EQ(std::vector<std::uint32_t>(out, out + 4), (std::vector<std::uint32_t>{5, 6, 7, 8}));
}

TEST(ReturnRing, HoldsTheLastPageOfTheLargestArena) {
  ReturnRing ring(PageIndex{0}, 2);
  PageIndex last{0x7fffffff};
  for (int lap = 0; lap < 4; ++lap) {
    std::uint32_t out = 0;
    ASSERT_EQ(ring.push({&last, 1}), 1u);
    ASSERT_EQ(ring.pop(&out, 1), 1u);
    EXPECT_EQ(out, 0x7fffffffu);
  }
}

TEST(ReturnRing, DeliversEachPageOnceFromManyProducers) {
  constexpr std::uint32_t kProducers = 3, kEach = 30'000;
  ReturnRing ring(PageIndex{0}, 8);
  std::vector<std::thread> producers;
  for (std::uint32_t producer = 0; producer < kProducers; ++producer) {
    producers.emplace_back([&ring, producer] {
      for (std::uint32_t sent = 0; sent < kEach;) {
        PageIndex batch[5];
        std::uint32_t count = std::min(5u, kEach - sent);
        for (std::uint32_t i = 0; i < count; ++i) {
          batch[i] = PageIndex{producer * kEach + sent + i};
        }
        std::uint32_t fitted = ring.push({batch, count});
        sent += fitted;
        if (fitted == 0) {
          std::this_thread::yield();
        }
      }
    });
  }
  std::vector<std::uint32_t> next(kProducers, 0);
  for (std::uint32_t got = 0; got < kProducers * kEach;) {
    std::uint32_t out[8];
    std::uint32_t count = ring.pop(out, 8);
    for (std::uint32_t i = 0; i < count; ++i) {
      ASSERT_EQ(out[i] % kEach,
                next[out[i] / kEach]++);  // each producer's pages in its order, none lost, none twice
    }
    got += count;
    if (count == 0) {
      std::this_thread::yield();
    }
  }
  for (std::thread& producer : producers) {
    producer.join();
  }
  EXPECT_TRUE(ring.empty());
}

}  // namespace
}  // namespace sluice
