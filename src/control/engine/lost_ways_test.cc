#include "control/engine/lost_ways.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

const std::set<WorkerId> kThree{WorkerId{0}, WorkerId{1}, WorkerId{2}};

RuleConfig to(const std::string& target) {
  RuleConfig rule;
  rule.to = target;
  return rule;
}

TEST(LostWays, NameTheWorkersWithoutAQueueOfTheNicOnceForEachNic) {
  const auto sends = [](const std::string& netdev, WorkerId worker) {
    return netdev == "eth2" && worker == WorkerId{1};
  };
  EXPECT_EQ(lost_ways({to("nic:eth2"), to("dns"), to("nic:eth2"), to("netdev:eth3"), to("nic:eth4")}, kThree,
                      sends),
            (std::vector<std::string>{"what workers 0, 2 take for nic:eth2 is dropped as drop_no_reader: "
                                      "they serve no queue of eth2 that no "
                                      "port owns",
                                      "what workers 0, 1, 2 take for nic:eth4 is dropped as drop_no_reader: "
                                      "they serve no queue of eth4 that "
                                      "no port owns"}));
}

TEST(LostWays, ThereAreNoneWhereEachTakerSendsOrNoRuleLeadsToANic) {
  EXPECT_TRUE(lost_ways({to("nic:eth2")}, kThree, [](const std::string&, WorkerId) { return true; }).empty());
  EXPECT_TRUE(
      lost_ways({to("dns"), to("drop")}, kThree, [](const std::string&, WorkerId) { return false; }).empty());
  EXPECT_TRUE(lost_ways({to("nic:eth2")}, {}, [](const std::string&, WorkerId) { return false; }).empty());
}

}  // namespace
}  // namespace sluice
