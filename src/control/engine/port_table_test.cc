#include "control/engine/port_table.h"

#include <gtest/gtest.h>

#include "control/engine/fake_nic.h"

namespace sluice {
namespace {

class PortTableTest : public ::testing::Test {
 protected:
  // Ids that were given back and have rested are free.
  void rest() {
    table.resting().begin_round();
    table.resting().end_round();
  }
  std::string retry() {
    std::string said;
    table.retry(
        [&said](const std::string& what, const Error& error) { said += what + ": " + error.message; });
    return said;
  }

  test::Faults faults;
  test::FakeProgram one{faults}, two{faults};
  std::set<PortId> led_to;
  int left_over = 0, passes = 0;
  PortTable table{{.workers_pass = [this] { ++passes; },
                   .rules_lead_to = [this](PortId port) { return led_to.contains(port); },
                   .left_over = [this] { ++left_over; }}};
};

TEST_F(PortTableTest, KernelAndDropHaveTheirIdsAndEveryOtherNameAnIdOfItsOwn) {
  EXPECT_EQ(table.find("kernel"), PortId::kKernel);
  EXPECT_EQ(table.find("drop"), PortId::kDrop);
  const PortId dns = table.take("dns").value();
  EXPECT_EQ(table.take("dns").value(), dns);
  EXPECT_NE(table.take("web").value(), dns);
}

TEST_F(PortTableTest, EveryProgramHasEveryEntryWhoeverCameFirst) {
  const PortId dns = table.take("dns").value();
  ASSERT_TRUE(table.add_program(NicId{0}, "eth1", one));
  table.set_trusted(dns, true);
  table.set_attached(dns, true);
  ASSERT_TRUE(table.add_program(NicId{1}, "eth2", two));
  const PortEntry entry{PortKind::kSocket, 0, true};
  EXPECT_EQ(one.ports.at(dns), entry);
  EXPECT_EQ(two.ports.at(dns), entry);
}

TEST_F(PortTableTest, PressureIsToldToAProgramThatComesLater) {
  const PortId dns = table.take("dns").value();
  table.set_pressure(dns, WorkerId{3}, true);
  ASSERT_TRUE(table.add_program(NicId{0}, "eth1", one));
  EXPECT_TRUE(one.pressed.contains({dns, WorkerId{3}}));
  table.set_pressure(dns, WorkerId{3}, false);
  EXPECT_TRUE(one.pressed.empty());
  table.remove_program(NicId{0});
  EXPECT_EQ(passes, 1) << "no worker is inside set_pressure() with the program";
  table.set_pressure(dns, WorkerId{3}, true);
  EXPECT_TRUE(one.pressed.empty());
}

TEST_F(PortTableTest, AnEntryThatAProgramRefusesIsToldAgain) {
  ASSERT_TRUE(table.add_program(NicId{0}, "eth1", one));
  ASSERT_TRUE(table.add_program(NicId{1}, "eth2", two));
  two.refuses_ports = true;
  const PortId dns = table.take("dns").value();
  table.set_attached(dns, true);
  EXPECT_TRUE(one.ports.contains(dns)) << "the other program is not kept waiting";
  EXPECT_FALSE(table.settled());
  EXPECT_EQ(left_over, 1);
  EXPECT_NE(retry().find("nic eth2: it takes no ports"), std::string::npos);
  two.refuses_ports = false;
  EXPECT_EQ(retry(), "");
  EXPECT_TRUE(two.ports.contains(dns));
  EXPECT_TRUE(table.settled());
}

TEST_F(PortTableTest, AnIdIsNobodyElsesWhileAProgramStillHasItsEntry) {
  ASSERT_TRUE(table.add_program(NicId{0}, "eth1", one));
  const PortId dns = table.take("dns").value();
  table.set_attached(dns, true);
  one.refuses_ports = true;
  EXPECT_FALSE(table.give_back("dns"));
  EXPECT_FALSE(table.find("dns")) << "the name is free";
  for (std::uint32_t i = kFirstFreePortId; i < kMaxPorts - 1u; ++i) {
    ASSERT_NE(table.take(std::to_string(i)).value(), dns);
  }
  rest();
  EXPECT_FALSE(table.take("one more")) << "the last id there is";
  one.refuses_ports = false;
  EXPECT_EQ(retry(), "");
  EXPECT_FALSE(one.ports.contains(dns));
  rest();
  EXPECT_EQ(table.take("one more").value(), dns);
}

TEST_F(PortTableTest, AnIdIsNobodyElsesWhileARuleLeadsThere) {
  const PortId dns = table.take("dns").value();
  led_to = {dns};
  EXPECT_TRUE(table.give_back("dns"));
  EXPECT_FALSE(table.settled());
  retry();
  EXPECT_FALSE(table.resting().any_resting());
  led_to.clear();
  retry();
  EXPECT_TRUE(table.settled());
  EXPECT_TRUE(table.resting().any_resting());
}

TEST_F(PortTableTest, AProgramThatRefusesAnEntryIsNotAdded) {
  table.set_attached(table.take("dns").value(), true);
  one.refuses_ports = true;
  EXPECT_FALSE(table.add_program(NicId{0}, "eth1", one));
  const PortId web = table.take("web").value();
  one.refuses_ports = false;
  table.set_attached(web, true);
  EXPECT_TRUE(one.ports.empty());
}

TEST_F(PortTableTest, AnIdBelongsToItsNameUntilItIsGivenBack) {
  PortId dns = table.take("dns").value();
  EXPECT_EQ(table.take("dns").value(), dns);
  EXPECT_NE(table.take("web").value(), dns);
  EXPECT_TRUE(table.give_back("dns"));
  EXPECT_NE(table.take("mail").value(), dns);
  EXPECT_EQ(table.take("kernel").value(), PortId::kKernel);
}

TEST_F(PortTableTest, AnIdRestsUntilARoundThatBeganAfterItsReturnHasEndedAndTheOldestIsTakenFirst) {
  std::vector<PortId> ids;
  for (std::uint16_t i = kFirstFreePortId; i < kMaxPorts; ++i) {
    ids.push_back(table.take(fmt::format("p{}", i)).value());
  }
  EXPECT_TRUE(table.give_back("p2"));
  table.resting().begin_round();
  EXPECT_TRUE(table.give_back("p3"));
  auto none = table.take("next");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().message,
            "no room for port next at this moment: packets of removed ports are still under way; try again");
  table.resting().end_round();
  EXPECT_TRUE(table.resting().any_resting()) << "p3 came back in the middle of the round";
  EXPECT_EQ(table.take("next").value(), ids[0]);
  EXPECT_FALSE(table.take("more"));
  table.resting().begin_round();
  table.resting().end_round();
  EXPECT_EQ(table.take("more").value(), ids[1]);
  EXPECT_FALSE(table.resting().any_resting());
}

TEST_F(PortTableTest, SaysWhenItIsFull) {
  for (std::uint16_t i = kFirstFreePortId; i < kMaxPorts; ++i) {
    ASSERT_TRUE(table.take(fmt::format("p{}", i)));
  }
  auto one_more = table.take("late");
  ASSERT_FALSE(one_more);
  EXPECT_EQ(one_more.error().message, "no room for port late: the port table has 1024 entries");
}

}  // namespace
}  // namespace sluice
