#include "worker/forward/ingress_rules.h"

#include <gtest/gtest.h>

#include <thread>

#include "demux/packet_builder.h"
#include "worker/forward/switch_fixture.h"

namespace sluice {
namespace {

using testing::PacketBuilder;

constexpr PortId kVm{10}, kOther{11}, kApp{12}, kNic{100};
constexpr WorkerId kFirst{0}, kSecond{1};

Rule rule(std::string_view match, PortId port, std::uint32_t slot, std::int32_t priority = 0) {
  return {.match = parse_match(match).value(), .port = port, .priority = priority, .slot = RuleSlot{slot}};
}

struct Sent {
  std::vector<testing::Bytes> frames;
  std::vector<Packet> packets;
  explicit Sent(std::vector<testing::Bytes> made) : frames(std::move(made)) {
    for (const auto& frame : frames) {
      packets.push_back(Packet{.head = reinterpret_cast<const std::byte*>(frame.data()),
                               .head_bytes = static_cast<std::uint16_t>(frame.size()),
                               .port = kNic});
    }
  }
};
testing::Bytes udp_to(std::uint16_t port) {
  return PacketBuilder()
      .macs({2, 0, 0, 0, 0, 11}, {2, 0, 0, 0, 0, 10})
      .ipv4("10.0.0.1", "10.0.0.2")
      .udp(4000, port)
      .build(60);
}

TEST(PortIngressRules, LeadFlowsElsewhereAndLeaveTheOthersAlone) {
  const Rule rules[] = {rule("dst_port 53", kApp, 7, 1), rule("dst_port 54", PortId::kDrop, 8)};
  auto counts = std::make_shared<IngressCounts>(2);
  auto port_rules = PortIngressRules::create(rules, counts).value();
  Sent sent({udp_to(53), udp_to(99), udp_to(54), udp_to(53)});
  EXPECT_EQ(port_rules->steer(kFirst, sent.packets), 0b1101u);
  EXPECT_EQ(sent.packets[0].port, kApp);
  EXPECT_EQ(sent.packets[0].rule, 7u);
  EXPECT_EQ(sent.packets[1].port, kNic);
  EXPECT_EQ(sent.packets[1].rule, raw(RuleSlot::kNone));
  EXPECT_EQ(sent.packets[2].port, PortId::kDrop);
  EXPECT_EQ(counts->count(RuleSlot{7}).packets, 2u);
  EXPECT_EQ(counts->count(RuleSlot{7}).bytes, 120u);
  EXPECT_EQ(counts->count(RuleSlot{8}).packets, 1u);
  EXPECT_EQ(counts->count(RuleSlot{9}).packets, 0u);
}

TEST(PortIngressRules, StandAheadOfTheAddressesInEveryMode) {
  for (SwitchMode mode : {SwitchMode::kBridge, SwitchMode::kVepa, SwitchMode::kPrivate}) {
    Switch switching({{.port = kVm, .uplink = kNic, .mode = mode, .macs = {testing::mac_of(10)}},
                      {.port = kOther, .uplink = kNic, .macs = {testing::mac_of(11)}}});
    const Rule rules[] = {rule("dst_port 53", kApp, 0)};
    switching.set_ingress_rules(kVm,
                                PortIngressRules::create(rules, std::make_shared<IngressCounts>(1)).value());
    Sent sent({udp_to(53), udp_to(54)});
    switching.route(kFirst, {.port = kVm, .uplink = kNic}, sent.packets);
    EXPECT_EQ(sent.packets[0].port, kApp);
    EXPECT_EQ(sent.packets[1].port, mode == SwitchMode::kBridge ? kOther : kNic);
    Sent others({udp_to(53)});
    switching.route(kFirst, {.port = kOther, .uplink = kNic}, others.packets);
    EXPECT_EQ(others.packets[0].port, kNic) << "another port has none of these rules";
  }
}

TEST(PortIngressRules, WithOneRuleForEverythingTakeFramesOfAnyKind) {
  const Rule rules[] = {rule("", kApp, 3)};
  auto counts = std::make_shared<IngressCounts>(1);
  auto port_rules = PortIngressRules::create(rules, counts).value();
  Sent sent(std::vector<testing::Bytes>(kBurst, testing::Bytes(14)));
  EXPECT_EQ(port_rules->steer(kFirst, sent.packets), ~0ull);
  EXPECT_TRUE(std::ranges::all_of(sent.packets, [](const Packet& packet) { return packet.port == kApp; }));
  EXPECT_EQ(port_rules->steer(kFirst, {}), 0u);
  EXPECT_EQ(counts->count(RuleSlot{3}).packets, kBurst);
  EXPECT_EQ(counts->count(RuleSlot{3}).bytes, kBurst * 14);
}

TEST(PortIngressRules, KeepTheirCountsWhenTheRulesAreReplacedAndLoseThemWhenTheSlotIsCleared) {
  auto counts = std::make_shared<IngressCounts>(1);
  const Rule rules[] = {rule("dst_port 53", kApp, 7)};
  Sent sent({udp_to(53)});
  PortIngressRules::create(rules, counts).value()->steer(kFirst, sent.packets);
  PortIngressRules::create(rules, counts).value()->steer(kFirst, sent.packets);
  EXPECT_EQ(counts->count(RuleSlot{7}).packets, 2u);
  counts->clear(RuleSlot{7});
  EXPECT_EQ(counts->count(RuleSlot{7}).packets, 0u);
  PortIngressRules::create(rules, counts).value()->steer(kFirst, sent.packets);
  EXPECT_EQ(counts->count(RuleSlot{7}).packets, 1u);
}

TEST(PortIngressRules, AreCountedByEachWorkerOnItsOwn) {
  auto counts = std::make_shared<IngressCounts>(2);
  const Rule rules[] = {rule("dst_port 53", kApp, 65535)};
  auto port_rules = PortIngressRules::create(rules, counts).value();
  auto work = [&](WorkerId worker) {
    Sent sent({udp_to(53)});
    for (int i = 0; i < 10'000; ++i) {
      port_rules->steer(worker, sent.packets);
    }
  };
  std::thread other([&] { work(kSecond); });
  work(kFirst);
  other.join();
  EXPECT_EQ(counts->count(RuleSlot{65535}).packets, 20'000u);
}

TEST(PortIngressRules, RefuseToLeadToTheKernel) {
  const Rule rules[] = {rule("dst_port 53", PortId::kKernel, 0)};
  auto made = PortIngressRules::create(rules, std::make_shared<IngressCounts>(1));
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message.find("dst_port 53"), std::string::npos) << made.error().message;
}

}  // namespace
}  // namespace sluice
