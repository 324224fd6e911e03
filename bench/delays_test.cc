#include "bench/delays.h"

#include <gtest/gtest.h>

namespace sluice::bench {
namespace {

Delays up_to(std::uint64_t last) {
  Delays delays;
  for (std::uint64_t ns = last; ns != 0; --ns) {
    delays.note(ns * 1000);
  }
  return delays;
}

TEST(Delays, GivesQuantilesOfWhatWasNotedInAnyOrder) {
  Delays delays = up_to(100);
  EXPECT_EQ(delays.us(0), 1);
  EXPECT_EQ(delays.us(0.5), 51);
  EXPECT_EQ(delays.us(0.99), 100);
  EXPECT_EQ(delays.us(1), 100);
  EXPECT_EQ(Delays().us(0.5), 0);
}

TEST(Delays, RoundsOfDifferentLengthsCountAlikeWhenTakenEvenly) {
  Delays fast = up_to(10), slow, all;
  for (int i = 0; i < 1000; ++i) {
    slow.note(1'000'000);
  }
  slow.note_lost(3);
  all.add(fast.evenly(200));
  all.add(slow.evenly(200));
  EXPECT_EQ(all.count(), 400u);
  EXPECT_EQ(all.lost(), 3u);
  EXPECT_EQ(all.us(0.25), 6);
  EXPECT_EQ(all.us(0.49), 10);
  EXPECT_EQ(all.us(0.51), 1000);
}

TEST(Delays, TakenEvenlyKeepTheirQuantiles) {
  Delays delays = up_to(100'000);
  Delays even = delays.evenly(2000);
  for (const double quantile : {0.1, 0.5, 0.9, 0.99, 0.999}) {
    EXPECT_NEAR(even.us(quantile), delays.us(quantile), 50) << quantile;
  }
  EXPECT_EQ(Delays().evenly(10).count(), 0u);
}

}  // namespace
}  // namespace sluice::bench
