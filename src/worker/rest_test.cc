#include "worker/rest.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

constexpr std::uint64_t kNapNs = 50'000;
constexpr std::uint64_t kSecondNs = 1'000'000'000;
using Rest = RestPolicy::Rest;

TEST(RestPolicy, SleepsAtOnceWhenNothingEverCame) {
  RestPolicy policy(kNapNs);
  EXPECT_EQ(policy.next(0, kNapNs), Rest::kSleep);
}

TEST(RestPolicy, NapsWhileANapGathersAFewPackets) {
  RestPolicy policy(kNapNs);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(policy.next(125, kNapNs + 10'000), Rest::kNap);
  }
}

TEST(RestPolicy, SleepsAfterSoManyQuietNaps) {
  RestPolicy policy(kNapNs);
  EXPECT_EQ(policy.next(125, kNapNs), Rest::kNap);
  for (std::uint32_t i = 0; i < RestPolicy::kQuietNaps; ++i) {
    EXPECT_EQ(policy.next(0, kNapNs), Rest::kNap);
  }
  EXPECT_EQ(policy.next(0, kNapNs), Rest::kSleep);
}

// Delay: somebody who sends one packet a millisecond, or asks and waits for the answer, is served by
// wake-ups.
TEST(RestPolicy, SleepsBetweenPacketsThatComeOneAtATime) {
  RestPolicy policy(kNapNs);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(policy.next(1, 1'000'000), Rest::kSleep);
    EXPECT_EQ(policy.next(1, 15'000), Rest::kSleep);
  }
}

TEST(RestPolicy, ABurstAfterALongSilenceDoesNotMakeABusyTime) {
  RestPolicy policy(kNapNs);
  EXPECT_EQ(policy.next(64, kSecondNs), Rest::kSleep);
}

TEST(RestPolicy, BusyIsARateNotACount) {
  RestPolicy policy(kNapNs);
  const std::uint64_t threshold_ns = 64 / RestPolicy::kBusyPackets * kNapNs;
  EXPECT_EQ(policy.next(64, threshold_ns + 1), Rest::kSleep);
  EXPECT_EQ(policy.next(64, threshold_ns), Rest::kNap);
}

TEST(RestPolicy, Malicious_CryingWolfCostsATurnPerNapAndNoMore) {  // D6
  RestPolicy policy(kNapNs);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(policy.next(0, 2'000), Rest::kSleep);
    policy.sleep_brought_nothing();
    EXPECT_EQ(policy.next(0, 2'000), Rest::kNap);
  }
}

}  // namespace
}  // namespace sluice
