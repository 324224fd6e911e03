#include "worker/rest.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

constexpr std::uint64_t kUs = 1'000, kNapNs = 50 * kUs, kSecondNs = 1'000'000'000;
using Rest = RestPolicy::Rest;

// A worker's time. Rests take no time but what is said.
class RestPolicyTest : public ::testing::Test {
 protected:
  Rest packets(std::uint64_t count, std::uint64_t after_ns, bool received = true) {
    now_ += after_ns;
    return policy_.next({.now_ns = now_, .packets = count, .received = received, .useful = true});
  }
  Rest nothing(std::uint64_t after_ns) {
    now_ += after_ns;
    return policy_.next({.now_ns = now_});
  }
  // Packets that come whatever the worker does, for so long. How many naps there were.
  std::uint64_t open_loop(double per_us, std::uint64_t for_ns) {
    std::uint64_t naps = 0;
    double waiting = 0;
    for (const std::uint64_t end = now_ + for_ns; now_ < end;) {
      const double between_us = 1 / per_us;
      // A sleep ends with the next packet, a nap after its time.
      const double rest_us = last_ == Rest::kNap ? 55 : last_ == Rest::kSpin ? 0.5 : between_us;
      waiting += (rest_us + 1) * per_us;
      const auto came = static_cast<std::uint64_t>(waiting);
      waiting -= static_cast<double>(came);
      const auto passed = static_cast<std::uint64_t>((rest_us + 1) * 1'000);
      last_ = came != 0 ? packets(came, passed) : nothing(passed);
      if (last_ == Rest::kNap) {
        ++naps;
        policy_.napped(55 * kUs);
      }
    }
    return naps;
  }
  // So many requests are under way at a time: their next ones come `think_us` after they were answered.
  std::uint64_t closed_loop(std::uint64_t outstanding, std::uint64_t think_us, std::uint64_t for_ns) {
    std::uint64_t answered = 0, spun = 0;
    Rest rest = Rest::kSleep;
    for (const std::uint64_t end = now_ + for_ns; now_ < end;) {
      const std::uint64_t away_us = rest == Rest::kNap ? std::max<std::uint64_t>(55, think_us) : think_us;
      answered += outstanding;
      rest = packets(2 * outstanding, (away_us + 2) * kUs - spun);
      for (spun = 0; rest == Rest::kSpin && spun < think_us * kUs; spun += 500) {
        rest = nothing(500);
      }
      if (rest == Rest::kNap) {
        policy_.napped(55 * kUs);
      }
    }
    return answered;
  }

  RestPolicy policy_{kNapNs};
  std::uint64_t now_ = kSecondNs;
  Rest last_ = Rest::kSleep;
};

TEST_F(RestPolicyTest, SleepsAtOnceWhenNothingEverCame) {
  EXPECT_EQ(nothing(0), Rest::kSleep);
}

TEST_F(RestPolicyTest, NapsWhilePacketsComeSoFastThatWakingForEachWouldTakeMuchOfACpu) {
  for (std::uint64_t i = 0; i <= RestPolicy::kSettledNs / (30 * kUs) + 1; ++i) {
    (void)packets(64, 30 * kUs);
  }
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(packets(125, kNapNs + 10 * kUs), Rest::kNap);
  }
}

TEST_F(RestPolicyTest, SleepsAFewNapsAfterTheLastPacket) {
  for (int i = 0; i < 100; ++i) {
    (void)packets(1'000, kNapNs);
  }
  int naps = 0;
  while (nothing(kNapNs) == Rest::kNap) {
    ++naps;
  }
  EXPECT_LE(naps, 12);
}

// Delay: somebody who sends one packet a millisecond, or asks and waits for the answer, is served by
// wake-ups.
TEST_F(RestPolicyTest, NeverNapsBetweenPacketsThatComeOneAtATime) {
  for (int i = 0; i < 1'000; ++i) {
    EXPECT_NE(packets(1, 1'000 * kUs), Rest::kNap);
    EXPECT_NE(packets(1, 15 * kUs, false), Rest::kNap);
  }
}

TEST_F(RestPolicyTest, ABurstAfterALongSilenceDoesNotMakeABusyTime) {
  EXPECT_NE(packets(64, kSecondNs), Rest::kNap);
}

TEST_F(RestPolicyTest, DearWakeUpsMakeItNapEarlier) {
  RestPolicy cheap(kNapNs), dear(kNapNs);
  for (int i = 0; i < 100; ++i) {
    cheap.napped(kNapNs + 2 * kUs);
    dear.napped(kNapNs + 12 * kUs);
  }
  EXPECT_NEAR(static_cast<double>(cheap.wake_ns()), 2'000, 100);
  EXPECT_NEAR(static_cast<double>(dear.wake_ns()), 12'000, 100);
  std::uint64_t now = kSecondNs;
  Rest of_cheap{}, of_dear{};
  for (int i = 0; i < 1'000; ++i) {  // 100,000 a second
    now += 10 * kUs;
    const RestPolicy::Work work{.now_ns = now, .packets = 1, .received = true, .useful = true};
    of_cheap = cheap.next(work);
    of_dear = dear.next(work);
  }
  EXPECT_NE(of_cheap, Rest::kNap);
  EXPECT_EQ(of_dear, Rest::kNap);
}

TEST_F(RestPolicyTest, TheCostOfAWakeUpStaysWithinBoundsWhateverTheClockSays) {
  for (int i = 0; i < 100; ++i) {
    policy_.napped(kSecondNs);
  }
  EXPECT_LE(policy_.wake_ns(), RestPolicy::kMostWakeNs);
  for (int i = 0; i < 100; ++i) {
    policy_.napped(0);
  }
  EXPECT_GE(policy_.wake_ns(), RestPolicy::kLeastWakeNs);
}

TEST_F(RestPolicyTest, NapsGatherWhatComesWhateverTheWorkerDoes) {
  EXPECT_EQ(open_loop(0.001, 100'000 * kUs), 0u) << "1000 a second";
  const std::uint64_t naps = open_loop(1, 100'000 * kUs);
  EXPECT_GT(naps, 1'500u) << "a million a second: of 1800";
}

TEST_F(RestPolicyTest, WhoWaitsForAnswersIsNotSlowedDownByNapsForLong) {
  const std::uint64_t answered = closed_loop(2, 20, kSecondNs);  // 90,000 a second when it never naps
  const std::uint64_t without_naps = 2 * kSecondNs / (22 * kUs);
  EXPECT_GT(answered, without_naps * 95 / 100);
}

TEST_F(RestPolicyTest, LearnsToSpinWhereAnswersComeSoonAndOnlyThere) {
  Rest after_request = Rest::kSleep, after_answer = Rest::kSleep;
  for (int i = 0; i < 20; ++i) {
    after_request = packets(1, 985 * kUs, true);
    while (after_request == Rest::kSpin && i < 19) {
      after_request = nothing(14 * kUs);
      break;
    }
    after_answer = packets(1, 1 * kUs + (after_request == Rest::kSpin ? 0 : 14 * kUs), false);
    EXPECT_EQ(after_answer, Rest::kSleep) << "nothing comes for a millisecond";
  }
  EXPECT_EQ(after_request, Rest::kSpin) << "the answer comes 15 us later";
}

TEST_F(RestPolicyTest, ASpinEndsInASleepAndOnesThatBroughtNothingGetShorter) {
  (void)packets(1, kSecondNs);
  EXPECT_EQ(packets(1, 15 * kUs), Rest::kSpin) << "the gap was short";
  EXPECT_EQ(nothing(RestPolicy::kMostSpinNs), Rest::kSleep);
  for (int i = 0; i < 5; ++i) {
    (void)packets(1, kSecondNs);
  }
  EXPECT_EQ(packets(1, kSecondNs), Rest::kSleep);
}

TEST_F(RestPolicyTest, DoesNotSpinOnACoreThatSomebodyElseNeeds) {
  (void)packets(1, kSecondNs);
  ASSERT_EQ(packets(1, 15 * kUs), Rest::kSpin);
  now_ += 3'000 * kUs;
  policy_.offered(now_, 3'000 * kUs);
  EXPECT_EQ(packets(1, 15 * kUs), Rest::kSleep);
  (void)packets(1, RestPolicy::kFirstSharedBanNs);
  (void)packets(1, 15 * kUs);
  EXPECT_EQ(packets(1, 15 * kUs), Rest::kSpin) << "tried again after a while";
}

TEST_F(RestPolicyTest, Malicious_CryingWolfCostsATurnPerNapAndNoMore) {  // D6
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(nothing(2 * kUs), Rest::kSleep);
    EXPECT_EQ(nothing(2 * kUs), Rest::kWireNap) << "only the wire ends it";
  }
}

TEST_F(RestPolicyTest, Malicious_AFrameWithEachWakeUpMakesItNapLikeAnyOtherTraffic) {
  std::uint64_t naps = 0;
  for (int i = 0; i < 10'000; ++i) {
    naps += packets(1, 4 * kUs, false) == Rest::kNap ? 1 : 0;
  }
  EXPECT_GT(naps, 9'000u);
}

}  // namespace
}  // namespace sluice
