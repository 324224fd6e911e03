#include "control/engine/stalls.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

constexpr std::uint64_t kMs = 1'000'000;
constexpr PortId kPort{5};

class FakeCosts final : public PortCosts {
 public:
  std::uint64_t charged_us(PortId) const override { return charged; }
  void begin_window(PortId, std::uint64_t budget_us) override { budgets.push_back(budget_us); }
  std::uint64_t charged = 0;
  std::vector<std::uint64_t> budgets;
};

class StallsTest : public ::testing::Test {
 protected:
  void watch() {
    stalls.watch("vm", kPort, {.budget_us = 100, .window_ms = 10}, [this](std::uint64_t shut_ns) {
      ++cut_off;
      shut_for_ns = shut_ns;
    });
  }
  // The end of one more window, in which the port cost so much.
  void window(std::uint64_t cost_us) {
    costs.charged += cost_us;
    stalls.look(now += 10 * kMs);
  }

  FakeCosts costs;
  Stalls stalls{costs};
  std::uint64_t now = 1000 * kMs, shut_for_ns = 0;
  int cut_off = 0;
};

TEST_F(StallsTest, EachWindowBeginsWithTheWholeBudget) {
  watch();
  window(0);
  window(0);
  EXPECT_EQ(costs.budgets, (std::vector<std::uint64_t>{100, 100}));
}

TEST_F(StallsTest, WhatAnEarlierPortOfThatIdCostIsNotCharged) {
  costs.charged = 1'000'000;
  watch();
  window(0);
  window(50);
  EXPECT_EQ(stalls.state("vm"), StallPolicy::State::kServed);
}

TEST_F(StallsTest, WhoIsOverItsBudgetIsThrottledAndAtLastCutOffOnce) {
  watch();
  window(0);
  window(150);
  EXPECT_EQ(stalls.state("vm"), StallPolicy::State::kThrottled);
  for (std::uint32_t i = 0; i < kWindowsBeforeCutOff; ++i) {
    EXPECT_EQ(cut_off, 0);
    window(150);
  }
  EXPECT_EQ(cut_off, 1);
  EXPECT_GE(shut_for_ns, kAfterCutOffNs);
  window(0);
  EXPECT_EQ(cut_off, 1);
  EXPECT_EQ(stalls.state("vm"), StallPolicy::State::kServed);
}

TEST_F(StallsTest, APortWithoutABudgetIsNeverLookedAt) {
  stalls.watch("tap", kPort, {.budget_us = 0, .window_ms = 10}, [](std::uint64_t) { FAIL(); });
  window(1'000'000);
  EXPECT_TRUE(costs.budgets.empty());
  EXPECT_EQ(stalls.state("tap"), StallPolicy::State::kServed);
}

TEST_F(StallsTest, WithAPortItsWindowGoesSoThatTheNextOfThatIdIsServed) {
  watch();
  window(0);
  stalls.forget("vm");
  EXPECT_EQ(costs.budgets.back(), 0u);
  const std::size_t before = costs.budgets.size();
  window(1000);
  EXPECT_EQ(costs.budgets.size(), before);
}

TEST_F(StallsTest, TheNextLookIsWhenTheFirstWindowEnds) {
  watch();
  stalls.look(now);
  EXPECT_EQ(stalls.look(now + 1), now + 10 * kMs);
}

}  // namespace
}  // namespace sluice
