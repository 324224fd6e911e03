#include "control/engine/undo.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

RuleConfig rule(const std::string& nic, const std::string& to, const std::string& port = "") {
  RuleConfig rule;
  rule.nic = nic;
  rule.match = "ip_proto udp dst_port 53";
  rule.to = to;
  rule.port = port;
  return rule;
}

class UndoTest : public ::testing::Test {
 protected:
  UndoTest() {
    for (const char* netdev : {"eth1", "eth2"}) {
      target.nics[netdev].netdev = netdev;
    }
    for (const char* name : {"dns", "web"}) {
      target.ports[name].name = name;
    }
    before = target;
  }
  Undone undone(const Action& step) {
    return undo(target, before, step,
                {.rules = [this](const std::string&) { return standing; },
                 .ingress_rules = [this](const std::string&) { return standing; },
                 .port = [this](const std::string&) { return runs; },
                 .nic = [this](const std::string&) { return runs; }});
  }

  Config target, before;
  std::vector<RuleConfig> standing;
  bool runs = false;
};

TEST_F(UndoTest, APortThatCouldNotBeAddedGoesWithTheRulesToItAndOnWhatItSends) {
  target.rules = {rule("", "dns"), rule("", "web"), rule("", "web", "dns")};
  const Config left = undone(AddPort{target.ports["dns"], {}}).target;
  EXPECT_FALSE(left.ports.contains("dns"));
  EXPECT_EQ(left.rules, std::vector{rule("", "web")});
}

TEST_F(UndoTest, ANicThatCouldNotBeAddedGoesWithItsRulesAndThoseThatLeadToIt) {
  target.rules = {rule("eth1", "dns"), rule("eth2", "dns"), rule("eth2", "nic:eth1"),
                  rule("", "nic:eth1", "dns")};
  const Config left = undone(AddNic{target.nics["eth1"]}).target;
  EXPECT_FALSE(left.nics.contains("eth1"));
  EXPECT_EQ(left.rules, std::vector{rule("eth2", "dns")});
}

TEST_F(UndoTest, APortOrNicThatStillRunsIsPutBackAndOneThatIsGoneIsNot) {
  target.ports.erase("dns");
  target.nics.erase("eth1");
  EXPECT_FALSE(undone(RemovePort{"dns"}).target.ports.contains("dns"));
  EXPECT_FALSE(undone(RemoveNic{"eth1"}).target.nics.contains("eth1"));
  runs = true;
  EXPECT_TRUE(undone(RemovePort{"dns"}).target.ports.contains("dns"));
  EXPECT_TRUE(undone(RemoveNic{"eth1"}).target.nics.contains("eth1"));
}

TEST_F(UndoTest, ANicKeepsTheRulesThatStandAndTheOthersHaveTheNewOnes) {
  target.rules = {rule("", "web"), rule("", "drop", "dns")};
  standing = {rule("eth1", "dns")};
  const Undone result = undone(SetRules{"eth1", {rule("eth1", "web")}});
  EXPECT_EQ(result.target.rules,
            (std::vector{rule("", "drop", "dns"), rule("eth1", "dns"), rule("eth2", "web")}));
  EXPECT_FALSE(result.rules_are_left_over);
}

TEST_F(UndoTest, ARuleThatStandsAndLeadsToAPortThatGoesIsLeftOverToBeTakenAway) {
  target.ports.erase("dns");
  standing = {rule("eth1", "dns"), rule("eth1", "kernel"), rule("eth1", "netdev:out0")};
  const Undone result = undone(SetRules{"eth1", {}});
  EXPECT_TRUE(result.rules_are_left_over);
  EXPECT_EQ(result.target.rules, (std::vector{rule("eth1", "kernel"), rule("eth1", "netdev:out0")}));
}

TEST_F(UndoTest, APortKeepsTheRulesThatStandOnWhatItSends) {
  target.rules = {rule("", "drop", "dns"), rule("", "drop", "web")};
  standing = {rule("", "web", "dns")};
  const Undone result = undone(SetIngressRules{"dns", {rule("", "drop", "dns")}});
  EXPECT_EQ(result.target.rules, (std::vector{rule("", "drop", "web"), rule("", "web", "dns")}));
  target.ports.erase("web");
  EXPECT_TRUE(undone(SetIngressRules{"dns", {}}).rules_are_left_over);
}

TEST_F(UndoTest, TheLogLevelIsThatOfBefore) {
  before.daemon.log = "info";
  target.daemon.log = "debug";
  EXPECT_EQ(undone(SetLogLevel{"debug"}).target.daemon.log, "info");
}

}  // namespace
}  // namespace sluice
