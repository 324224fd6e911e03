#include "demux/compile.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <memory>
#include <random>
#include <string>

#include "base/fd.h"
#include "demux/naive_match.h"
#include "demux/random_traffic.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#include "bpf/lookup.h"
#pragma GCC diagnostic pop

namespace sluice {
namespace {

using testing::Bytes;
using testing::NaiveParser;
using testing::PacketBuilder;
using testing::RandomTraffic;

// An image in user space, read by the program's own lookup.
class Image {
 public:
  Image() {
    void* memory =
        ::mmap(nullptr, sizeof(sluice_rule_set), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(memory, MAP_FAILED);
    mapping_ = Mapping::adopt(memory, sizeof(sluice_rule_set));
  }
  sluice_rule_set& set() { return *reinterpret_cast<sluice_rule_set*>(mapping_.data()); }
  Result<CompiledRules> compile(std::span<const Rule> rules) { return compile_rules(rules, set()); }
  std::uint64_t value_of(const Bytes& frame) {
    // No spare capacity, so that the address sanitizer sees a read behind the end.
    auto exact = std::make_unique<std::uint8_t[]>(frame.size());
    std::ranges::copy(frame, exact.get());
    sluice_key key{};
    sluice_parse(exact.get(), exact.get() + frame.size(), &key);
    return sluice_lookup(&set(), &key);
  }
  // The slot of the rule that wins; -1: none.
  std::int64_t slot_of(const Bytes& frame) {
    std::uint64_t value = value_of(frame);
    return value == SLUICE_VALUE_NONE ? -1
                                      : static_cast<std::int64_t>(value >> SLUICE_VALUE_RULE_SHIFT & 0xffff);
  }

 private:
  Mapping mapping_;
};

Rule rule(std::string_view match, std::uint32_t slot, std::int32_t priority = 0) {
  return {
      .match = parse_match(match).value(), .port = PortId{7}, .priority = priority, .slot = RuleSlot{slot}};
}

Bytes udp_to(std::uint16_t port, std::uint16_t from = 4000) {
  return PacketBuilder().ipv4("10.0.0.1", "10.0.0.2").udp(from, port).build();
}

TEST(Compile, AnEmptySetMatchesNothingAndAnEmptyMatchEverything) {
  Image none;
  ASSERT_TRUE(none.compile({}));
  EXPECT_EQ(none.slot_of(udp_to(53)), -1);
  Image all;
  std::vector<Rule> rules = {rule("", 9)};
  ASSERT_TRUE(all.compile(rules));
  EXPECT_EQ(all.slot_of(udp_to(53)), 9);
  EXPECT_EQ(all.slot_of({}), 9);
}

TEST(Compile, AValueCarriesPortRuleAndShed) {
  Image image;
  Rule shed{.match = parse_match("dst_port 53").value(),
            .port = PortId{1023},
            .shed = true,
            .slot = RuleSlot{65535}};
  ASSERT_TRUE(image.compile(std::span(&shed, 1)));
  std::uint64_t value = image.value_of(udp_to(53));
  EXPECT_EQ(value >> SLUICE_VALUE_RULE_SHIFT & 0xffff, 65535u);
  EXPECT_EQ(value >> SLUICE_VALUE_PORT_SHIFT & 0xffff, 1023u);
  EXPECT_TRUE(value & SLUICE_VALUE_SHED);
}

TEST(Compile, HigherPriorityWinsAndThenTheLowerSlotAlsoAcrossMasks) {
  Image image;
  std::vector<Rule> rules = {rule("ip_proto udp", 5, 1), rule("dst_port 53", 6, 2),
                             rule("src_port 4000", 4, 2), rule("src_ip 10.0.0.0/8", 3, -5)};
  ASSERT_TRUE(image.compile(rules));
  EXPECT_EQ(image.slot_of(udp_to(53)), 4);
  EXPECT_EQ(image.slot_of(udp_to(53, 1)), 6);
  EXPECT_EQ(image.slot_of(udp_to(1, 1)), 5);
  EXPECT_EQ(image.slot_of(PacketBuilder().ipv4("10.0.0.1", "10.0.0.2").icmp().build()), 3);
}

TEST(Compile, PrioritiesMayBeTheLeastAndTheGreatestThereAre) {
  Image image;
  std::vector<Rule> rules = {rule("ip_proto udp", 0, INT32_MIN), rule("dst_port 53", 1, INT32_MAX)};
  ASSERT_TRUE(image.compile(rules));
  EXPECT_EQ(image.slot_of(udp_to(53)), 1);
  EXPECT_EQ(image.slot_of(udp_to(54)), 0);
}

TEST(Compile, PortRangesIncludeBothEnds) {
  Image image;
  std::vector<Rule> rules = {rule("dst_port 1000-2000", 1), rule("src_port 65000-65535", 2, -1),
                             rule("dst_port 0-9", 3)};
  ASSERT_TRUE(image.compile(rules));
  for (auto [port, slot] :
       {std::pair{999, -1}, {1000, 1}, {1500, 1}, {2000, 1}, {2001, -1}, {0, 3}, {9, 3}, {10, -1}}) {
    EXPECT_EQ(image.slot_of(udp_to(static_cast<std::uint16_t>(port))), slot) << port;
  }
  EXPECT_EQ(image.slot_of(udp_to(5000, 65535)), 2);
  EXPECT_EQ(image.slot_of(udp_to(5000, 64999)), -1);
}

TEST(Compile, ThousandsOfOverlappingRangesOfOneKeyFit) {
  std::vector<Rule> rules;
  for (std::uint32_t i = 0; i < 20000; ++i) {
    rules.push_back(rule(fmt::format("ip_proto udp dst_port {}-{}", i, i + 20000), i,
                         static_cast<std::int32_t>(i % 100)));
  }
  Image image;
  auto compiled = image.compile(rules);
  ASSERT_TRUE(compiled) << compiled.error().message;
  EXPECT_EQ(compiled->masks, 1u);
  for (std::uint32_t port = 0; port < 40100; port += 997) {
    Bytes frame = udp_to(static_cast<std::uint16_t>(port));
    const Rule* winner = testing::naive_winner(rules, NaiveParser(frame).seen());
    EXPECT_EQ(image.slot_of(frame), winner ? static_cast<std::int64_t>(raw(winner->slot)) : -1) << port;
  }
}

TEST(Compile, TooManyRulesWithBothRangesOverlappingSayWhere) {
  std::vector<Rule> rules;
  for (std::uint32_t i = 0; i <= SLUICE_MAX_CHAIN; ++i) {
    rules.push_back(rule(fmt::format("src_port {}-{} dst_port 100-200", 2 * i, 2 * i + 1), i));
  }
  Image image;
  auto compiled = image.compile(rules);
  ASSERT_FALSE(compiled);
  EXPECT_NE(compiled.error().message.find(
                "more than 16 rules that agree in all but src_port ranges overlap at dst_port 100"),
            std::string::npos)
      << compiled.error().message;
  rules.pop_back();
  Image enough;
  ASSERT_TRUE(enough.compile(rules));
  EXPECT_EQ(enough.slot_of(udp_to(150, 2 * SLUICE_MAX_CHAIN - 1)), SLUICE_MAX_CHAIN - 1);
}

TEST(Compile, SixtyFourMasksFitAndOneMoreIsNamed) {
  std::vector<Rule> rules;
  for (std::uint32_t i = 0; i < 64; ++i) {
    rules.push_back(rule(fmt::format("src_ip 2001:db8::/{}", i + 32), i, static_cast<std::int32_t>(i)));
  }
  Image image;
  auto compiled = image.compile(rules);
  ASSERT_TRUE(compiled);
  EXPECT_EQ(compiled->masks, 64u);
  EXPECT_EQ(image.slot_of(PacketBuilder().ipv6("2001:db8::1", "::1").udp(1, 2).build()), 63);
  EXPECT_EQ(image.slot_of(PacketBuilder().ipv6("2001:db8:ffff::1", "::1").udp(1, 2).build()), 0);
  rules.push_back(rule("dst_port 53", 64, -1));
  Image full;
  auto error = full.compile(rules);
  ASSERT_FALSE(error);
  EXPECT_EQ(
      error.error().message,
      "rule 'dst_port 53' would be the 65th combination of words and prefix lengths: at most 64 for one NIC");
}

// 65,536 rules of the biggest kind, in a number of tables each of which is just above a power of two.
TEST(Compile, SixtyFiveThousandRulesFitInTheWorstShape) {
  std::vector<Rule> rules;
  for (std::uint32_t i = 0; i < kMaxRules; ++i) {
    IpMatch source{.v6 = true, .prefix = static_cast<std::uint8_t>(128 - i % 15)};
    source.value = {0x20,
                    1,
                    0,
                    static_cast<std::uint8_t>(i >> 16),
                    static_cast<std::uint8_t>(i >> 8),
                    static_cast<std::uint8_t>(i)};
    IpMatch destination = source;
    destination.prefix = 128;
    rules.push_back(
        {.match = {.src_ip = source, .dst_ip = destination}, .port = PortId{3}, .slot = RuleSlot{i}});
  }
  Image image;
  auto compiled = image.compile(rules);
  ASSERT_TRUE(compiled) << compiled.error().message;
  EXPECT_LE(compiled->most_probes, SLUICE_MAX_PROBES);
  EXPECT_EQ(compiled->masks, 15u);
  RandomTraffic random(1);
  for (int n = 0; n < 2000; ++n) {
    std::uint32_t i = random.below(kMaxRules);
    char address[INET6_ADDRSTRLEN];
    ::inet_ntop(AF_INET6, rules[i].match.dst_ip->value.data(), address, sizeof address);
    EXPECT_EQ(image.slot_of(PacketBuilder().ipv6(address, address).build()), i);
  }
  rules.push_back(rule("", 0));
  auto error = Image().compile(rules);
  ASSERT_FALSE(error);
  EXPECT_EQ(error.error().message, "65537 rules for one NIC: at most 65536");
}

TEST(Compile, ARuleThatCannotBeIsAnError) {
  Rule upside_down = rule("dst_port 1", 0);
  upside_down.match.dst_port = PortRange{.low = 2, .high = 1};
  EXPECT_NE(Image().compile(std::span(&upside_down, 1)).error().message.find("upside down"),
            std::string::npos);
  Rule too_long = rule("src_ip 10.0.0.1", 0);
  too_long.match.src_ip->prefix = 33;
  EXPECT_NE(Image().compile(std::span(&too_long, 1)).error().message.find("a prefix of 33 bits"),
            std::string::npos);
}

TEST(Compile, TwoRulesInOneSlotAreOurBug) {
  std::vector<Rule> rules = {rule("dst_port 1", 3), rule("dst_port 2", 3)};
  EXPECT_DEATH((void)Image().compile(rules), "rule slot 3 twice");
}

TEST(Compile, GivesTheSameImageForTheSameRulesInAnyOrder) {
  RandomTraffic random(5);
  std::vector<Rule> rules = random.rules(300, 10);
  Image one, two;
  ASSERT_TRUE(one.compile(rules));
  std::ranges::reverse(rules);
  ASSERT_TRUE(two.compile(rules));
  EXPECT_EQ(std::memcmp(&one.set(), &two.set(), sizeof(sluice_rule_set)), 0);
}

TEST(Model_Compile, AgreesWithTheNaiveMatcherOnRandomRulesAndFrames) {
  std::size_t hits = 0, sets = 0, frames = 0;
  for (std::uint32_t seed = 0; seed < 150; ++seed) {
    RandomTraffic random(seed);
    std::vector<Rule> rules =
        random.rules(1 + random.below(seed % 10 == 0 ? 1000 : 60), 1 + random.below(40));
    Image image;
    auto compiled = image.compile(rules);
    if (!compiled) {
      ASSERT_NE(compiled.error().message.find("more than 16 rules"), std::string::npos)
          << compiled.error().message;
      continue;
    }
    ++sets;
    for (int n = 0; n < 300; ++n) {
      Bytes frame = random.frame();
      NaiveParser parser(frame);
      const Rule* winner = testing::naive_winner(rules, parser.seen());
      ASSERT_EQ(image.slot_of(frame), winner ? static_cast<std::int64_t>(raw(winner->slot)) : -1)
          << "seed " << seed << " frame " << n << " winner " << (winner ? to_string(winner->match) : "none");
      hits += winner != nullptr;
      ++frames;
    }
  }
  EXPECT_GT(sets, 100u);
  EXPECT_GT(hits, frames / 4);  // the traffic meets the rules
  EXPECT_LT(hits, frames * 9 / 10);
}

}  // namespace
}  // namespace sluice
