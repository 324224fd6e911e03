// Rules in this process mean what they mean in the XDP program.
#include "demux/classifier.h"

#include <gtest/gtest.h>

#include "demux/demux_fixture.h"
#include "demux/random_traffic.h"

namespace sluice {
namespace {

using testing::Bytes;
using testing::DemuxTest;
using testing::NaiveParser;
using testing::PacketBuilder;
using testing::RandomTraffic;

constexpr std::size_t kFrontBytes = 128;  // what a lane copies of a sender's frame

std::span<const std::byte> front_of(const Bytes& frame) {
  return std::as_bytes(std::span(frame)).first(std::min(frame.size(), kFrontBytes));
}
Rule rule(std::string_view match, std::uint16_t port, std::uint32_t slot, std::int32_t priority = 0) {
  return {.match = parse_match(match).value(),
          .port = PortId{port},
          .priority = priority,
          .slot = RuleSlot{slot}};
}

class ClassifierInTheKernel : public DemuxTest {};

TEST_F(ClassifierInTheKernel, Model_ThisProcessAndTheXdpProgramAgreeOnRandomRulesAndFrames) {
  std::uint32_t frames = 0, hits = 0;
  for (std::uint32_t seed = 1; seed <= 40; ++seed) {
    RandomTraffic random(seed);
    std::vector<Rule> rules =
        random.rules(1 + random.below(seed % 10 == 0 ? 1000 : 60), 1 + random.below(50));
    for (Rule& each : rules) {
      each.port = kPort;
      each.shed = false;
    }
    auto classifier = Classifier::compile(rules);
    ASSERT_EQ(classifier.has_value(), demux_->replace_rules(rules).has_value()) << "seed " << seed;
    if (!classifier) {
      continue;
    }
    for (int n = 0; n < 300; ++n) {
      Bytes frame = random.frame();
      frame.resize(std::min(frame.size(), kFrontBytes));
      if (frame.size() < 14) {
        continue;  // the kernel's test run takes none
      }
      const auto verdict = classifier->classify(front_of(frame));
      ASSERT_EQ(slot_of(frame), verdict ? static_cast<std::int64_t>(raw(verdict->rule)) : -1)
          << "seed " << seed << " frame " << n;
      EXPECT_TRUE(!verdict || verdict->port == kPort);
      hits += verdict.has_value();
      ++frames;
    }
  }
  EXPECT_GT(frames, 8'000u);
  EXPECT_GT(hits, frames / 4);
}

// Without a kernel, so that the sanitizers see it whoever runs them; and frames that end anywhere.
TEST(Classifier, Model_AgreesWithTheNaiveMatch) {
  std::uint32_t hits = 0;
  for (std::uint32_t seed = 1; seed <= 100; ++seed) {
    RandomTraffic random(seed);
    std::vector<Rule> rules = random.rules(1 + random.below(60), 1 + random.below(50));
    auto classifier = Classifier::compile(rules);
    if (!classifier) {
      continue;  // too many overlapping ranges: compile_test holds that error to its word
    }
    for (int n = 0; n < 300; ++n) {
      Bytes frame = random.frame();
      frame.resize(std::min(frame.size(), kFrontBytes));
      frame.shrink_to_fit();
      const Rule* winner = testing::naive_winner(rules, NaiveParser(frame).seen());
      const auto verdict = classifier->classify(front_of(frame));
      ASSERT_EQ(verdict.has_value(), winner != nullptr) << "seed " << seed << " frame " << n;
      if (winner != nullptr) {
        ASSERT_EQ(*verdict, (Classifier::Verdict{winner->port, winner->slot}));
        ++hits;
      }
    }
  }
  EXPECT_GT(hits, 5'000u);
}

TEST(Classifier, HeadersBehindTheFrontAreAsIfTheyWereNotThere) {
  const Rule rules[] = {rule("dst_port 53", 5, 0, 1), rule("ip_proto udp", 6, 1)};
  auto classifier = Classifier::compile(rules).value();
  PacketBuilder near, far;
  near.ipv6("2001:db8::1", "2001:db8::2").udp(1, 53).payload(200);
  far.ipv6("2001:db8::1", "2001:db8::2").extension(60, 64).extension(60, 64).udp(1, 53).payload(200);
  EXPECT_EQ(classifier.classify(front_of(near.build()))->port, PortId{5});
  const Bytes whole = far.build();
  EXPECT_EQ(classifier.classify(std::as_bytes(std::span(whole)))->port, PortId{5}) << "the whole frame";
  EXPECT_EQ(classifier.classify(front_of(far.build()))->port, PortId{6})
      << "the protocol is known, its ports are not";
}

TEST(Classifier, KnowsWhenNoFrameNeedsToBeLookedAt) {
  auto constant = [](std::vector<Rule> rules) { return Classifier::compile(rules).value().constant(); };
  EXPECT_EQ(constant({rule("", 7, 3)}), (Classifier::Verdict{PortId{7}, RuleSlot{3}}));
  EXPECT_EQ(constant({rule("dst_port 53", 5, 0), rule("", 7, 3, 1)}),
            (Classifier::Verdict{PortId{7}, RuleSlot{3}}));
  EXPECT_EQ(constant({rule("dst_port 53", 5, 0), rule("", 7, 3)}), std::nullopt) << "the lower slot wins";
  EXPECT_EQ(constant({rule("eth_type ip", 5, 0)}), std::nullopt);
  EXPECT_EQ(constant({}), std::nullopt);
  EXPECT_EQ(Classifier::compile({}).value().classify(front_of(Bytes(60))), std::nullopt);
}

TEST(Classifier, RefusesWhatTheCompilerRefuses) {
  std::vector<Rule> rules;
  for (std::uint32_t slot = 0; slot < 70; ++slot) {  // more masks than there are
    rules.push_back(
        rule(fmt::format("src_ip 10.0.0.0/{} dst_ip 10.0.0.0/{}", 8 + slot % 8, 8 + slot / 8), 5, slot));
  }
  auto classifier = Classifier::compile(rules);
  ASSERT_FALSE(classifier);
  EXPECT_NE(classifier.error().message.find("combination"), std::string::npos) << classifier.error().message;
}

}  // namespace
}  // namespace sluice
