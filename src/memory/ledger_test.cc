#include "memory/ledger.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <vector>

#include "memory/walk.h"

namespace sluice {
namespace {

constexpr PortId kDns{5}, kVm{6};

TEST(Ledger, KnowsWhoHoldsEachPage) {
  Ledger ledger(8);
  EXPECT_EQ(ledger.holder(PageIndex{3}), PortId::kKernel);
  ledger.lend(PageIndex{3}, kDns);
  ledger.lend(PageIndex{7}, kVm);
  EXPECT_EQ(ledger.holder(PageIndex{3}), kDns);
  EXPECT_EQ(ledger.holder(PageIndex{7}), kVm);
  EXPECT_EQ(ledger.lent(kDns), 1u);
  EXPECT_EQ(ledger.give_back(3, kDns), PageFault::kNone);
  EXPECT_EQ(ledger.holder(PageIndex{3}), PortId::kKernel);
  EXPECT_EQ(ledger.lent(kDns), 0u);
}

TEST(Ledger, CoversThePagesOfOnePoolOnly) {
  Ledger ledger(PageIndex{100}, 10);
  EXPECT_EQ(ledger.page_count(), 10u);
  EXPECT_FALSE(ledger.covers(PageIndex{99}));
  EXPECT_TRUE(ledger.covers(PageIndex{100}));
  EXPECT_TRUE(ledger.covers(PageIndex{109}));
  EXPECT_FALSE(ledger.covers(PageIndex{110}));
  ledger.lend(PageIndex{109}, kDns);
  EXPECT_EQ(ledger.give_back(99, kDns), PageFault::kForged);
  EXPECT_EQ(ledger.give_back(110, kDns), PageFault::kForged);
  EXPECT_EQ(ledger.give_back(109, kDns), PageFault::kNone);
}

// D3: whatever a peer says, a wrong return is a value and nothing else.
TEST(Ledger, Malicious_WrongReturnsAreFaultsThatChangeNothing_D3) {
  Ledger ledger(8);
  ledger.lend(PageIndex{1}, kDns);
  ledger.lend(PageIndex{2}, kVm);
  EXPECT_EQ(ledger.give_back(8, kDns), PageFault::kForged);
  EXPECT_EQ(ledger.give_back(0xffffffff, kDns), PageFault::kForged);
  EXPECT_EQ(ledger.give_back(0x80000001, kDns), PageFault::kForged);
  EXPECT_EQ(ledger.give_back(2, kDns), PageFault::kForeign);
  EXPECT_EQ(ledger.give_back(0, kDns), PageFault::kDouble);
  EXPECT_EQ(ledger.holder(PageIndex{1}), kDns);
  EXPECT_EQ(ledger.holder(PageIndex{2}), kVm);
  EXPECT_EQ(ledger.lent(kDns), 1u);
  EXPECT_EQ(ledger.lent(kVm), 1u);
  EXPECT_EQ(ledger.give_back(1, kDns), PageFault::kNone);
  EXPECT_EQ(ledger.give_back(1, kDns), PageFault::kDouble);
  EXPECT_EQ(ledger.lent(kDns), 0u);
}

// D7: the end of a holder.
TEST(Ledger, Crash_ReclaimTakesBackEverythingOfOneHolderAndNothingElse_D7) {
  Ledger ledger(PageIndex{10}, 8);
  for (std::uint32_t page : {10u, 13u, 17u}) {
    ledger.lend(PageIndex{page}, kDns);
  }
  ledger.lend(PageIndex{14}, kVm);
  std::vector<std::uint32_t> home;
  EXPECT_EQ(ledger.reclaim(kDns, [&](PageIndex page) { home.push_back(raw(page)); }), 3u);
  EXPECT_EQ(home, (std::vector<std::uint32_t>{10, 13, 17}));
  EXPECT_EQ(ledger.lent(kDns), 0u);
  EXPECT_EQ(ledger.holder(PageIndex{14}), kVm);
  EXPECT_EQ(ledger.give_back(13, kDns), PageFault::kDouble);
  EXPECT_EQ(ledger.reclaim(kDns, [](PageIndex) { FAIL(); }), 0u);
}

TEST(Ledger, AReclaimedPageMayBeLentAgainAtOnce) {
  Ledger ledger(4);
  ledger.lend(PageIndex{0}, kDns);
  ledger.lend(PageIndex{2}, kDns);
  ledger.reclaim(kDns, [&](PageIndex page) { ledger.lend(page, kVm); });
  EXPECT_EQ(ledger.lent(kVm), 2u);
  EXPECT_EQ(ledger.holder(PageIndex{2}), kVm);
}

TEST(LedgerDeathTest, OurOwnBugsStopUs) {
  Ledger ledger(PageIndex{4}, 4);
  ledger.lend(PageIndex{5}, kDns);
  EXPECT_DEATH(ledger.lend(PageIndex{5}, kVm), "page 5 for port 6 is lent to port 5 already");
  EXPECT_DEATH(ledger.lend(PageIndex{3}, kVm), "page 3 is not in this ledger of 4 .. 7");
  EXPECT_DEATH(ledger.lend(PageIndex{6}, PortId::kKernel), "port 0 cannot hold pages");
  EXPECT_DEATH(ledger.lend(PageIndex{6}, PortId{kMaxPorts}), "port 1024 cannot hold pages");
  EXPECT_DEATH(ledger.give_back(6, PortId::kKernel), "port 0 cannot hold pages");
  EXPECT_DEATH(ledger.holder(PageIndex{8}), "page 8");
}

TEST(Ledger, Model_ARandomWalkAgreesWithOneHolderPerPage) {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    std::fprintf(stderr, "seed %llu\n", static_cast<unsigned long long>(seed));
    test::RandomChoices choices(seed, 2000);
    test::LedgerWalk(choices).run();
  }
}

}  // namespace
}  // namespace sluice
