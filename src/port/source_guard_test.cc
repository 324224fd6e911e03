#include "port/source_guard.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace sluice {
namespace {

using Bytes = std::vector<std::byte>;

constexpr MacAddress kMac{0x52, 0x54, 0, 0, 0, 1}, kOtherMac{0x52, 0x54, 0, 0, 0, 2};
constexpr MacAddress kStation{2, 0, 0, 0, 0, 9}, kEverybody{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

struct Sent {
  MacAddress to = kStation, from = kMac;
  std::vector<std::pair<std::uint16_t, std::uint16_t>> tags;  // TPID, TCI; the outer one first
  std::uint16_t type = 0x0800;
};

Bytes frame_of(const Sent& sent) {
  Bytes frame(12);
  std::memcpy(frame.data(), sent.to.data(), 6);
  std::memcpy(frame.data() + 6, sent.from.data(), 6);
  const auto put = [&frame](std::uint16_t value) {
    frame.resize(frame.size() + 2);
    store_be16(frame.data() + frame.size() - 2, value);
  };
  for (auto [tpid, tci] : sent.tags) {
    put(tpid);
    put(tci);
  }
  put(sent.type);
  frame.resize(frame.size() + 46, std::byte{0x45});
  return frame;
}

class Bench {
 public:
  explicit Bench(SourcePolicy policy) : guard(policy) {}
  // What becomes of a frame: as it would be sent, or nothing.
  std::optional<Bytes> send(const Sent& sent) {
    Bytes frame = frame_of(sent);
    Bytes room(16);
    room.insert(room.end(), frame.begin(), frame.end());
    std::byte* head = room.data() + 16;
    auto bytes = static_cast<std::uint32_t>(frame.size());
    guard.begin_burst(1);
    if (!guard.admit(head, bytes, true, counters)) {
      EXPECT_EQ(Bytes(head, head + bytes), frame) << "what is refused is not changed";
      return std::nullopt;
    }
    return Bytes(head, head + bytes);
  }
  bool passes(const Sent& sent) { return send(sent) == frame_of(sent); }

  SourceGuard guard;
  SourceCounters counters;
};

constexpr std::uint16_t kTpids[] = {0x8100, 0x88a8, 0x9100, 0x9200, 0x9300};

TEST(SourceGuard, LetsThePortsOwnFramesGoAsTheyAre) {
  Bench bench({.macs = {kOtherMac, kMac}});
  for (const MacAddress& from : {kMac, kOtherMac}) {
    for (const MacAddress& to : {kStation, kEverybody}) {
      for (std::uint16_t type :
           std::initializer_list<std::uint16_t>{0x0800, 0x0806, 0x86dd, 0x88b5, 0x0026}) {
        EXPECT_TRUE(bench.passes({.to = to, .from = from, .type = type})) << type;
      }
    }
  }
  EXPECT_TRUE(bench.passes({.tags = {{0x8100, 0xe000}}})) << "a priority is no VLAN";
}

TEST(SourceGuard, WithoutAnAddressNothingIsSent) {
  Bench bench({});
  EXPECT_FALSE(bench.send({}));
  EXPECT_FALSE(bench.send({.from = MacAddress{}}));
  EXPECT_FALSE(bench.send({.from = kEverybody}));
  EXPECT_EQ(bench.counters.value(SourceFault::kMac), 3u);
}

TEST(SourceGuard, AnAccessVlansTagIsPushedAndAPriorityKept) {
  Bench bench({.macs = {kMac}, .vlan = 7});
  EXPECT_EQ(bench.send({}), frame_of({.tags = {{0x8100, 7}}}));
  EXPECT_EQ(bench.send({.to = kEverybody}), frame_of({.to = kEverybody, .tags = {{0x8100, 7}}}));
  EXPECT_EQ(bench.send({.tags = {{0x8100, 0x6000}}}), frame_of({.tags = {{0x8100, 0x6007}}}));
  EXPECT_EQ(bench.guard.most_head() + kVlanTagBytes, kMaxHead) << "with its tag the head still fits";
}

// A VLAN is chosen by the operator, whatever tags and however many the port writes.
TEST(Malicious_SourceGuard, NoTagOfThePortsOwnChoiceIsSent) {
  for (std::uint16_t vlan : std::initializer_list<std::uint16_t>{0, 7}) {
    Bench bench({.macs = {kMac}, .vlan = vlan});
    std::uint64_t sent = 0;
    for (std::uint16_t outer : kTpids) {
      for (std::uint16_t tci : std::initializer_list<std::uint16_t>{1, 7, 9, 0xe007, 0xfff}) {
        EXPECT_FALSE(bench.send({.tags = {{outer, tci}}})) << outer << " " << tci;
        ++sent;
      }
      for (std::uint16_t inner : kTpids) {
        EXPECT_FALSE(bench.send({.tags = {{outer, 0}, {inner, 9}}})) << "a priority tag hides no tag";
        EXPECT_FALSE(bench.send({.tags = {{outer, 0}, {inner, 0}}}));
        EXPECT_FALSE(bench.send({.tags = {{outer, 0}, {inner, 0}, {inner, 9}}}));
        sent += 3;
      }
    }
    EXPECT_EQ(bench.counters.value(SourceFault::kVlan), sent);
  }
}

TEST(Malicious_SourceGuard, ATagThatEndsBehindTheFrameIsNotSent) {
  Bench bench({.macs = {kMac}, .vlan = 7});
  const Bytes frame = frame_of({.tags = {{0x8100, 0}, {0x8100, 9}}});
  for (std::uint32_t bytes = 14; bytes < 22; ++bytes) {
    Bytes room(16);
    room.insert(room.end(), frame.begin(), frame.begin() + bytes);
    std::byte* head = room.data() + 16;
    std::uint32_t head_bytes = bytes;
    EXPECT_FALSE(bench.guard.admit(head, head_bytes, true, bench.counters)) << bytes;
  }
}

TEST(Malicious_SourceGuard, ReservedGroupsAndMacControlAreNotSent) {
  for (std::uint16_t vlan : std::initializer_list<std::uint16_t>{0, 7}) {
    Bench bench({.macs = {kMac}, .vlan = vlan});
    for (int last = 0; last < 256; ++last) {
      const MacAddress to{0x01, 0x80, 0xc2, 0, 0, static_cast<std::uint8_t>(last)};
      EXPECT_EQ(bench.send({.to = to}).has_value(), last > 15) << last;
      EXPECT_EQ(bench.send({.to = to, .tags = {{0x8100, 0}}}).has_value(), last > 15) << last;
    }
    EXPECT_FALSE(bench.send({.type = 0x8808}));
    EXPECT_FALSE(bench.send({.tags = {{0x8100, 0}}, .type = 0x8808}));
    EXPECT_FALSE(bench.send({.to = kEverybody, .type = 0x8808}));
    EXPECT_EQ(bench.counters.value(SourceFault::kReserved), 35u);
  }
}

TEST(SourceGuard, ATrustedPortSendsAllOfThatAndKeepsItsOwnTags) {
  SourcePolicy policy{.macs = {kMac}};
  policy.set_trust(true);
  Bench open(policy);
  EXPECT_TRUE(open.passes({.from = kOtherMac, .tags = {{0x8100, 9}, {0x8100, 7}}}));
  EXPECT_TRUE(open.passes({.to = {0x01, 0x80, 0xc2, 0, 0, 0}}));
  EXPECT_TRUE(open.passes({.type = 0x8808}));
  policy.vlan = 7;
  Bench access(policy);
  EXPECT_EQ(access.send({}), frame_of({.tags = {{0x8100, 7}}}));
  EXPECT_TRUE(access.passes({.tags = {{0x8100, 9}}}));
  EXPECT_TRUE(access.passes({.tags = {{0x88a8, 9}}}));
}

TEST(SourceGuard, AddressesOfLayerThreeAreJudgedBehindAPriorityTagToo) {
  SourcePolicy policy{.macs = {kMac}, .vlan = 7};
  policy.limits = make_source_limits({"192.0.2.5"}, 0, 0).value();
  Bench bench(policy);
  EXPECT_FALSE(bench.send({}));
  EXPECT_FALSE(bench.send({.tags = {{0x8100, 0x6000}}}));
  EXPECT_FALSE(bench.send({.type = 0x88b5}));
  EXPECT_EQ(bench.counters.value(SourceFault::kIp), 3u);
}

TEST(RateLimit, GrantsItsRateAndABurstAtOnceWhateverThePattern) {
  for (std::uint32_t rate : {1u, 100u, 1'000'000u, 333'333'333u, 1'000'000'000u}) {
    for (std::uint64_t step_ns : {1'000u, 1'234'567u, 50'000'000u}) {
      RateLimit limit(rate);
      std::uint64_t granted = 0;
      const std::uint64_t begin = 1ull << 40;
      constexpr int kSteps = 2000;
      for (int i = 0; i < kSteps; ++i) {
        granted += limit.take(begin + static_cast<std::uint64_t>(i) * step_ns, 10 * kBurst);
      }
      const double seconds = kSteps * static_cast<double>(step_ns) / 1e9;
      const double most = seconds * rate + RateLimit::depth(rate);
      EXPECT_LE(static_cast<double>(granted), most + 1) << rate << " " << step_ns;
      const double offered = 10.0 * kBurst * kSteps;
      if (step_ns * rate < 1'000'000'000ull * kBurst / 2 && seconds * rate > 0) {
        EXPECT_GE(static_cast<double>(granted), std::min(offered, seconds * rate) * 0.95)
            << rate << " " << step_ns;
      }
    }
  }
}

TEST(RateLimit, OfAPortHoldsForItsLanesTogether) {
  const auto limits = make_source_limits({}, 1'000, 0).value();
  const std::uint64_t now = 1ull << 40;
  std::atomic<std::uint64_t> granted{0};
  std::vector<std::thread> lanes;
  for (int lane = 0; lane < 4; ++lane) {
    lanes.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) {
        granted += limits.frames->take(now, 3);
      }
    });
  }
  for (std::thread& lane : lanes) {
    lane.join();
  }
  EXPECT_LE(granted, RateLimit::depth(1'000));
  EXPECT_GE(granted, 1u);
}

TEST(SourceGuard, DropsBroadcastsBeyondTheirRateAndNothingElse) {
  SourcePolicy policy{.macs = {kMac}};
  policy.limits = make_source_limits({}, 0, 1).value();
  Bench bench(policy);
  std::uint64_t sent = 0;
  for (int i = 0; i < 1000; ++i) {
    sent += bench.send({.to = kEverybody}) ? 1 : 0;
    EXPECT_TRUE(bench.send({}));
  }
  EXPECT_GE(sent, kBurst);
  EXPECT_EQ(bench.counters.value(SourceFault::kBroadcastRate), 1000 - sent);
  EXPECT_GE(bench.counters.value(SourceFault::kBroadcastRate), 1u);
}

TEST(SourceGuard, DropsFramesBeyondTheirRate) {
  SourcePolicy policy{.macs = {kMac}};
  policy.limits = make_source_limits({}, 1, 0).value();
  Bench bench(policy);
  std::uint64_t sent = 0;
  for (int i = 0; i < 1000; ++i) {
    sent += bench.send({}) ? 1 : 0;
  }
  EXPECT_GE(sent, kBurst);
  EXPECT_EQ(bench.counters.value(SourceFault::kRate), 1000 - sent);
}

}  // namespace
}  // namespace sluice
