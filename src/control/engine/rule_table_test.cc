#include "control/engine/rule_table.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

Result<PortId> port_of(const std::string& to) {
  if (to == "missing") {
    return fail("port missing is not there");
  }
  return to == "kernel" ? PortId::kKernel : PortId{5};
}

RuleConfig rule(std::string match, std::string to = "dns", std::int32_t priority = 0) {
  return RuleConfig{"eth1", std::move(match), std::move(to), priority, false};
}

std::vector<RuleSlot> set(RuleTable& table, const std::vector<RuleConfig>& rules) {
  auto plan = table.plan(rules, port_of);
  EXPECT_TRUE(plan) << (plan ? "" : plan.error().message);
  return table.commit(std::move(*plan));
}

TEST(RuleTable, ARuleThatStaysKeepsItsSlotAndSoItsCounts) {
  RuleTable table;
  set(table, {rule("dst_port 1"), rule("dst_port 2"), rule("dst_port 3")});
  RuleSlot second = table.entries()[1].rule.slot;
  auto gone = set(table, {rule("dst_port 9"), rule("dst_port 2")});
  EXPECT_EQ(table.entries()[1].rule.slot, second);
  EXPECT_EQ(gone.size(), 2u);
}

TEST(RuleTable, NoTwoRulesShareASlot) {
  RuleTable table;
  set(table, {rule("dst_port 1"), rule("dst_port 1"), rule("dst_port 1")});
  set(table, {rule("dst_port 1"), rule("dst_port 2"), rule("dst_port 1"), rule("dst_port 3")});
  std::set<RuleSlot> slots;
  for (const auto& entry : table.entries()) {
    EXPECT_TRUE(slots.insert(entry.rule.slot).second);
  }
  EXPECT_EQ(slots.size(), 4u);
}

TEST(RuleTable, APlanThatFailsChangesNothing) {
  RuleTable table;
  set(table, {rule("dst_port 1")});
  auto plan = table.plan({rule("dst_port 2"), rule("dst_port 3", "missing")}, port_of);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().message, "rule \"dst_port 3\": port missing is not there");
  ASSERT_EQ(table.entries().size(), 1u);
  EXPECT_EQ(table.entries()[0].config, rule("dst_port 1"));
}

TEST(RuleTable, TakesAsManyRulesAsANicHasSlotsAndNamesTheLimit) {
  RuleTable table;
  std::vector<RuleConfig> rules(kMaxRules, rule("dst_port 1"));
  set(table, rules);
  rules.push_back(rule("dst_port 2"));
  auto plan = table.plan(rules, port_of);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().message, "65537 rules in one place are more than 65536");
  // A full table can still be replaced whole: the slots of rules that go are used again, and reported for
  // clearing.
  auto gone = set(table, std::vector<RuleConfig>(kMaxRules, rule("dst_port 3")));
  EXPECT_EQ(gone.size(), kMaxRules);
}

TEST(RuleTable, OfEqualPriorityTheEarlierInTheFileWinsWhateverItsSlot) {
  RuleTable table;
  set(table, {rule("dst_port 1"), rule("dst_port 2")});
  set(table, {rule("dst_port 3"), rule("dst_port 1"), rule("dst_port 2", "dns", 1), rule("dst_port 4")});
  const auto& entries = table.entries();
  EXPECT_GT(raw(entries[0].rule.slot), raw(entries[1].rule.slot)) << "the case in question";
  EXPECT_GT(entries[0].rule.priority, entries[1].rule.priority);
  EXPECT_GT(entries[1].rule.priority, entries[3].rule.priority);
  EXPECT_GT(entries[2].rule.priority, entries[0].rule.priority);
}

TEST(RuleTable, ImplicitRulesComeBehindAllOthersAndKeepTheirSlots) {
  RuleTable table;
  std::vector<RuleConfig> addresses{rule("dst_mac 52:54:00:00:00:01"), rule("dst_mac 52:54:00:00:00:02")};
  std::vector<RuleConfig> last(kMaxRules - 2, rule("dst_port 1", "dns", INT32_MIN));
  table.commit(table.plan({}, port_of, addresses).value());
  RuleSlot first = table.entries()[0].rule.slot;
  table.commit(table.plan(last, port_of, addresses).value());
  const auto& entries = table.entries();
  ASSERT_EQ(entries.size(), kMaxRules);
  EXPECT_TRUE(entries[kMaxRules - 2].implicit && entries[kMaxRules - 1].implicit);
  EXPECT_EQ(entries[kMaxRules - 2].rule.slot, first);
  EXPECT_LT(entries[kMaxRules - 2].rule.priority, entries[kMaxRules - 3].rule.priority);
  EXPECT_FALSE(table.plan(last, port_of, std::vector<RuleConfig>(3, addresses[0])));
}

TEST(RuleTable, TheSameRuleWrittenAndImplicitAreTwo) {
  RuleTable table;
  RuleConfig address = rule("dst_mac 52:54:00:00:00:01");
  table.commit(table.plan({address}, port_of, {address}).value());
  ASSERT_EQ(table.entries().size(), 2u);
  RuleSlot written = table.entries()[0].rule.slot, implicit = table.entries()[1].rule.slot;
  auto gone = table.commit(table.plan({}, port_of, {address}).value());
  EXPECT_EQ(gone, std::vector<RuleSlot>{written});
  EXPECT_EQ(table.entries()[0].rule.slot, implicit);
}

}  // namespace
}  // namespace sluice
