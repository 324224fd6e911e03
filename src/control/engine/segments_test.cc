#include "control/engine/segments.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

constexpr MacAddress kA{2, 0, 0, 0, 0, 1}, kB{2, 0, 0, 0, 0, 2}, kNicMac{2, 0, 0, 0, 0, 9};
constexpr PortId kNic{9};

PortConfig config(std::vector<MacAddress> macs, std::uint16_t vlan = 0) {
  PortConfig config;
  config.name = "vm";
  config.mac = std::move(macs);
  config.vlan = vlan;
  return config;
}

SegmentPort port(PortId id, std::vector<MacAddress> macs, bool behind_nic, std::uint16_t vlan = 0,
                 bool judges_tags = false) {
  std::optional<UplinkNic> nic;
  if (behind_nic) {
    nic = UplinkNic{"eth1", kNic, kNicMac};
  }
  return segment_port(config(std::move(macs), vlan), {.on_switch = true, .judges_tags = judges_tags}, id, nic)
      .value();
}

TEST(Segments, APortBehindANicHasItsUplinkAndARuleForEachAddress) {
  const Segments segments = make_segments({{"vm", port(PortId{5}, {kA, kB}, true)}});
  ASSERT_EQ(segments.ports.size(), 1u);
  EXPECT_EQ(segments.ports[0].port, PortId{5});
  EXPECT_EQ(segments.ports[0].uplink, kNic);
  const Segments::BehindNic behind = segments.behind("eth1");
  ASSERT_EQ(behind.rules.size(), 2u);
  EXPECT_EQ(behind.rules[0].match, "dst_mac 02:00:00:00:00:01 vlan_id 0");
  EXPECT_EQ(behind.rules[1].match, "dst_mac 02:00:00:00:00:02 vlan_id 0");
  EXPECT_EQ(behind.rules[0].to, "vm");
  EXPECT_EQ(behind.rules[0].nic, "eth1");
  EXPECT_EQ(behind.macs, (std::vector{kA, kB}));
}

TEST(Segments, APortWithoutAnUplinkIsOnTheSwitchAndNoNicKnowsIt) {
  const Segments segments = make_segments({{"vm", port(PortId{5}, {kA}, false)}});
  ASSERT_EQ(segments.ports.size(), 1u);
  EXPECT_EQ(segments.ports[0].uplink, PortId::kDrop);
  EXPECT_TRUE(segments.by_netdev.empty());
  EXPECT_TRUE(segments.behind("eth1").rules.empty());
}

TEST(Segments, ARuleNamesTheVlanUnlessAPortWithoutOneIsTrustedToJudgeTags) {
  const Segments segments = make_segments(
      {{"access", port(PortId{5}, {kA}, true, 7, true)}, {"trunk", port(PortId{6}, {kB}, true, 0, true)}});
  const Segments::BehindNic behind = segments.behind("eth1");
  ASSERT_EQ(behind.rules.size(), 2u);
  EXPECT_EQ(behind.rules[0].match, "dst_mac 02:00:00:00:00:01 vlan_id 7");
  EXPECT_EQ(behind.rules[1].match, "dst_mac 02:00:00:00:00:02");
}

TEST(Segments, AnAddressOfTheUplinkItselfIsRefused) {
  const auto refused =
      segment_port(config({kNicMac}), {.on_switch = true}, PortId{5}, UplinkNic{"eth1", kNic, kNicMac});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("is that of its uplink eth1"), std::string::npos)
      << refused.error().message;
}

TEST(Segments, NobodyOnTheSwitchAndNoRulesNeedNoSwitch) {
  EXPECT_EQ(make_switch({}, {}), nullptr);
  const Segments segments = make_segments({{"vm", port(PortId{5}, {kA}, false)}});
  const auto made = make_switch(segments, {});
  ASSERT_NE(made, nullptr);
  ASSERT_EQ(made->members().size(), 1u);
  EXPECT_EQ(made->members()[0].macs, std::vector{kA});
}

}  // namespace
}  // namespace sluice
