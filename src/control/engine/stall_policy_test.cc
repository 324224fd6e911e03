#include "control/engine/stall_policy.h"

#include <gtest/gtest.h>

#include "control/engine/stuck_watch.h"

namespace sluice {
namespace {

using State = StallPolicy::State;
constexpr std::uint64_t kBudget = 100;

TEST(StallPolicy, APortWithinItsBudgetIsServed) {
  StallPolicy policy;
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(policy.end_window(kBudget, kBudget), State::kServed);
  }
}

TEST(StallPolicy, Malicious_APortThatGoesOnIsThrottledAndThenCutOff) {
  StallPolicy policy;
  EXPECT_EQ(policy.end_window(kBudget + 1, kBudget), State::kThrottled);
  for (std::uint32_t i = 1; i < kWindowsBeforeCutOff; ++i) {
    EXPECT_EQ(policy.end_window(kBudget + 1, kBudget), State::kThrottled);
  }
  EXPECT_EQ(policy.end_window(kBudget + 1, kBudget), State::kCutOff);
  EXPECT_EQ(policy.end_window(0, kBudget), State::kServed) << "the next session begins anew";
}

TEST(StallPolicy, Malicious_BadWindowsWithQuietOnesBetweenAddUp) {
  StallPolicy policy;
  policy.end_window(kBudget + 1, kBudget);
  for (std::uint32_t i = 1; i < kWindowsBeforeCutOff; ++i) {
    EXPECT_EQ(policy.end_window(0, kBudget), State::kThrottled);
    EXPECT_EQ(policy.end_window(kBudget + 1, kBudget), State::kThrottled);
  }
  policy.end_window(0, kBudget);
  EXPECT_EQ(policy.end_window(kBudget + 1, kBudget), State::kCutOff);
}

TEST(StallPolicy, Malicious_OneLongStallIsNotForgivenByAFewQuietWindows) {
  StallPolicy policy;
  EXPECT_EQ(policy.end_window(50 * kBudget, kBudget), State::kThrottled);
  for (int i = 0; i < 48; ++i) {
    EXPECT_EQ(policy.end_window(0, kBudget), State::kThrottled) << i;
  }
  EXPECT_EQ(policy.end_window(0, kBudget), State::kServed) << "made up for";
}

TEST(StallPolicy, Malicious_AStallOfManyBudgetsIsCutOffAtOnceAndShutForLonger) {
  StallPolicy policy;
  EXPECT_EQ(policy.end_window((kMostDebt + 2) * kBudget, kBudget), State::kCutOff);
  EXPECT_EQ(policy.shut_ns(), kAfterCutOffNs);
  EXPECT_EQ(policy.end_window(0, kBudget), State::kServed);
  EXPECT_EQ(policy.end_window(10'000'000 + kBudget, kBudget), State::kCutOff) << "10 s";
  EXPECT_EQ(policy.shut_ns(), kAfterCutOffTimes * 10'000'000'000);
  EXPECT_EQ(policy.end_window(0, kBudget), State::kServed);
  EXPECT_EQ(policy.end_window(1'000'000'000'000, kBudget), State::kCutOff);
  EXPECT_EQ(policy.shut_ns(), kLongestAfterCutOffNs);
}

TEST(StallPolicy, RecoversAfterQuietWindowsInARow) {
  StallPolicy policy;
  policy.end_window(kBudget + 1, kBudget);
  for (std::uint32_t i = 1; i < kQuietWindows; ++i) {
    EXPECT_EQ(policy.end_window(0, kBudget), State::kThrottled);
  }
  EXPECT_EQ(policy.end_window(0, kBudget), State::kServed);
}

TEST(StallPolicy, WithoutABudgetNobodyIsThrottled) {
  StallPolicy policy;
  EXPECT_EQ(policy.end_window(1'000'000, 0), State::kServed);
}

using Say = StuckWatch::Say;

TEST(StuckWatch, SaysOnceThatAThreadIsStuckAgainAfterAWhileAndThatItMoves) {
  StuckWatch watch;
  std::uint64_t now = 1;
  EXPECT_EQ(watch.look(now, 7, false), Say::kNothing);
  EXPECT_EQ(watch.look(now + kStuckNs - 1, 7, false), Say::kNothing);
  EXPECT_FALSE(watch.stuck());
  EXPECT_EQ(watch.look(now += kStuckNs, 7, false), Say::kStuck);
  EXPECT_TRUE(watch.stuck());
  EXPECT_EQ(watch.look(now + kStuckAgainNs - 1, 7, false), Say::kNothing);
  EXPECT_EQ(watch.look(now += kStuckAgainNs, 7, false), Say::kStuck);
  EXPECT_EQ(watch.look(now + 1, 8, false), Say::kMovesAgain);
  EXPECT_FALSE(watch.stuck());
}

TEST(StuckWatch, AThreadThatRestsOrWorksIsWell) {
  StuckWatch watch;
  for (std::uint64_t i = 1; i < 20; ++i) {
    EXPECT_EQ(watch.look(i * kStuckNs, 7, true), Say::kNothing) << "asleep";
    EXPECT_FALSE(watch.stuck());
  }
  for (std::uint64_t i = 20; i < 40; ++i) {
    EXPECT_EQ(watch.look(i * kStuckNs, i, false), Say::kNothing) << "busy";
  }
}

}  // namespace
}  // namespace sluice
