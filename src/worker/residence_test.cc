#include "worker/residence.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(Residence, SaysNothingBeforeTheFirstSample) {
  EXPECT_EQ(Residence().quantile_ns(0.5), 0u);
}

TEST(Residence, AQuantileIsAtMostAQuarterAboveWhatWasNoted) {
  for (std::uint64_t ns = 64; ns < 8'000'000; ns += ns / 7 + 1) {
    Residence stays;
    stays.note(ns);
    const std::uint64_t told = stays.quantile_ns(0.5);
    EXPECT_GT(told, ns);
    EXPECT_LE(told, ns + ns / 4 + 1) << ns;
  }
}

TEST(Residence, QuantilesSeparateTheManyFromTheFew) {
  Residence stays;
  for (int i = 0; i < 980; ++i) {
    stays.note(1'000);
  }
  for (int i = 0; i < 20; ++i) {
    stays.note(1'000'000);
  }
  EXPECT_LE(stays.quantile_ns(0.5), 1'250u);
  EXPECT_GT(stays.quantile_ns(0.99), 1'000'000u);
}

TEST(Residence, TakesWhatIsShorterOrLongerThanItsBuckets) {
  Residence stays;
  stays.note(0);
  EXPECT_GT(stays.quantile_ns(0.5), 0u);
  stays.note(~std::uint64_t{0});
  EXPECT_GT(stays.quantile_ns(0.9), 8'000'000u);
}

TEST(Residence, TheRecentPastCountsMore) {
  Residence stays;
  for (std::uint32_t i = 0; i < Residence::kFull; ++i) {
    stays.note(1'000);
  }
  for (std::uint32_t i = 0; i < Residence::kFull * 3 / 4; ++i) {
    stays.note(100'000);
  }
  EXPECT_GT(stays.quantile_ns(0.5), 100'000u);
}

}  // namespace
}  // namespace sluice
