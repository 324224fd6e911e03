#include "control/engine/rules.h"

#include <gtest/gtest.h>

#include "control/engine/fake_nic.h"

namespace sluice {
namespace {

class RulesTest : public ::testing::Test {
 protected:
  static RuleConfig rule(const std::string& match, const std::string& to, const std::string& port = "") {
    RuleConfig rule;
    rule.nic = port.empty() ? "eth1" : "";
    rule.match = match;
    rule.to = to;
    rule.port = port;
    return rule;
  }

  test::Faults faults;
  test::FakeProgram program{faults};
  bool away = false;
  std::map<std::string, unsigned> devices{{"out0", 7}};
  int published = 0;
  PortTable table{
      {.workers_pass = [] {}, .rules_lead_to = [this](PortId port) { return rules.lead_to(port); }}};
  Rules rules{{.table = &table,
               .program = [this](const std::string&) { return away ? nullptr : &program; },
               .ifindex = [this](const std::string& netdev) { return devices[netdev]; },
               .publish = [this] { ++published; }}};
  const PortId dns = table.take("dns").value(), web = table.take("web").value();
};

TEST_F(RulesTest, AProgramThatRefusesRulesKeepsThoseThatStood) {
  ASSERT_TRUE(rules.set("eth1", {rule("ip_proto udp dst_port 53", "dns")}));
  EXPECT_TRUE(program.leads_to(dns));
  program.refuses_rules = true;
  EXPECT_FALSE(rules.set("eth1", {rule("ip_proto udp dst_port 80", "web")}));
  ASSERT_EQ(rules.standing("eth1").size(), 1u);
  EXPECT_EQ(rules.standing("eth1")[0].to, "dns");
  EXPECT_TRUE(rules.lead_to(dns));
  EXPECT_FALSE(rules.lead_to(web));
}

TEST_F(RulesTest, ImplicitRulesAreNoneOfTheOperatorsAndStayWhenThoseChange) {
  ASSERT_TRUE(rules.set_implicit("eth1", {rule("dst_mac 02:00:00:00:00:01", "web")}));
  ASSERT_TRUE(rules.set("eth1", {rule("ip_proto udp dst_port 53", "dns")}));
  EXPECT_EQ(rules.standing("eth1").size(), 1u);
  EXPECT_TRUE(program.leads_to(dns));
  EXPECT_TRUE(program.leads_to(web));
  ASSERT_TRUE(rules.set_implicit("eth1", {}));
  EXPECT_FALSE(program.leads_to(web));
  EXPECT_TRUE(program.leads_to(dns));
}

TEST_F(RulesTest, ARuleToAPortThatIsNotThereIsLeftOut) {
  ASSERT_TRUE(rules.set(
      "eth1", {rule("ip_proto udp dst_port 53", "dns"), rule("ip_proto udp dst_port 1", "nobody")}));
  EXPECT_EQ(program.rules.size(), 1u);
}

TEST_F(RulesTest, ANetdevIsTakenWithItsFirstRuleAndForgottenWithItsLast) {
  ASSERT_TRUE(table.add_program(NicId{0}, "eth1", program));
  ASSERT_TRUE(rules.set("eth1", {rule("ip_proto udp dst_port 53", "netdev:out0")}));
  const PortId out = table.find("netdev:out0").value();
  EXPECT_EQ(program.ports.at(out), (PortEntry{PortKind::kNetdev, 7}));
  devices.erase("out0");
  rules.refresh_netdevs([](const std::string&, const Error&) { FAIL(); });
  EXPECT_EQ(program.ports.at(out).kind, PortKind::kDetached);
  ASSERT_TRUE(rules.set("eth1", {rule("ip_proto udp dst_port 53", "netdev:out0")})) << "it may come back";
  rules.forget_unused_netdevs();
  EXPECT_TRUE(table.find("netdev:out0"));
  ASSERT_TRUE(rules.set("eth1", {}));
  rules.forget_unused_netdevs();
  EXPECT_FALSE(table.find("netdev:out0"));
  EXPECT_FALSE(program.ports.contains(out));
  EXPECT_FALSE(rules.set("eth1", {rule("ip_proto udp dst_port 53", "netdev:out0")}))
      << "there is no such device";
}

TEST_F(RulesTest, OfANicThatIsAwayNothingStandsInTheWay) {
  ASSERT_TRUE(rules.set(
      "eth1", {rule("ip_proto udp dst_port 53", "dns"), rule("ip_proto udp dst_port 54", "netdev:out0")}));
  away = true;
  EXPECT_FALSE(rules.lead_to(dns)) << "they went with its program";
  rules.forget_unused_netdevs();
  EXPECT_TRUE(table.find("netdev:out0")) << "it leads there again when it is back";
  EXPECT_TRUE(rules.set("eth1", {rule("ip_proto udp dst_port 80", "web")}));
  away = false;
  rules.nic_is_new("eth1");
  EXPECT_TRUE(rules.standing("eth1").empty());
}

TEST_F(RulesTest, RulesOnWhatAPortSendsArePublishedAndGoWithThePort) {
  ASSERT_TRUE(rules.set_ingress("dns", {rule("ip_proto udp dst_port 80", "web", "dns")}));
  EXPECT_EQ(published, 1);
  EXPECT_TRUE(rules.ingress().contains(dns));
  EXPECT_TRUE(rules.lead_to(web));
  EXPECT_FALSE(rules.set_ingress("dns", {rule("ip_proto udp dst_port 81", "kernel", "dns")}))
      << "the stack has its own";
  ASSERT_EQ(rules.standing_ingress("dns").size(), 1u);
  EXPECT_TRUE(rules.ingress().contains(dns));
  EXPECT_TRUE(rules.forget_port("dns"));
  EXPECT_TRUE(rules.ingress().empty());
  EXPECT_FALSE(rules.lead_to(web));
}

TEST_F(RulesTest, ARuleThatStaysKeepsItsCountAndOneThatGoesHasItsCountCleared) {
  ASSERT_TRUE(
      rules.set("eth1", {rule("ip_proto udp dst_port 53", "dns"), rule("ip_proto udp dst_port 80", "web")}));
  const RuleSlot kept = program.rules[0].slot, gone = program.rules[1].slot;
  ASSERT_TRUE(rules.set("eth1", {rule("ip_proto udp dst_port 53", "dns")}));
  EXPECT_EQ(program.rules[0].slot, kept);
  EXPECT_EQ(program.cleared, std::vector{gone});
  std::uint64_t packets = 0;
  rules.visit(
      [&](const std::string& nic, const std::string& port, const RuleTable::Entry&, const RuleCount& count) {
        EXPECT_EQ(nic, "eth1");
        EXPECT_EQ(port, "");
        packets += count.packets;
      });
  EXPECT_EQ(packets, raw(kept) + 1u);
}

}  // namespace
}  // namespace sluice
