#include "worker/forward/forward.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "port/test_frames.h"

namespace sluice {
namespace {

constexpr PortId kNic{2}, kApp{3}, kOther{4};

// Writes down which of the two calls came, with what; takes what it is told to.
class RecordingLane final : public Lane {
 public:
  explicit RecordingLane(DomainId domain) : Lane({.pages_of = domain}) {}

  struct Call {
    bool hand_over;
    std::vector<PageIndex> pages;
  };
  std::vector<Call> calls;
  std::uint32_t takes = kBurst;  // per call, from the front

  void hand_over(const BurstInfo&, std::span<Packet> packets) override {
    note(true, packets);
    for (std::size_t i = 0; i < packets.size() && i < takes; ++i) {
      packets[i].page = PageIndex::kNone;
    }
  }
  void copy_in(const BurstInfo&, std::span<Packet> packets) override { note(false, packets); }
  std::uint32_t burst(std::span<Packet>, BurstInfo&) override { return 0; }
  void done(std::span<const Packet>) override {}
  int wake_fd() const override { return -1; }
  bool prepare_sleep() override { return false; }

 private:
  void note(bool hand_over, std::span<Packet> packets) {
    Call call{hand_over, {}};
    for (const Packet& packet : packets) {
      call.pages.push_back(packet.page);
    }
    calls.push_back(call);
  }
};

std::vector<Packet> burst_to(const std::vector<PortId>& ports) {
  std::vector<Packet> burst;
  for (PortId port : ports) {
    burst.push_back(Packet{.page = PageIndex{static_cast<std::uint32_t>(burst.size())}, .port = port});
  }
  return burst;
}

std::vector<PageIndex> pages(std::initializer_list<std::uint32_t> numbers) {
  std::vector<PageIndex> result;
  for (std::uint32_t number : numbers) {
    result.push_back(PageIndex{number});
  }
  return result;
}

std::vector<PageIndex> left(std::span<const Packet> packets) {
  std::vector<PageIndex> result;
  for (const Packet& packet : packets) {
    if (packet.page != PageIndex::kNone) {
      result.push_back(packet.page);
    }
  }
  return result;
}

std::map<std::string, std::uint64_t> counters(const Forwarder& forwarder) {
  struct Collect : CounterVisitor {
    std::map<std::string, std::uint64_t> values;
    void counter(std::string_view name, std::uint64_t value) override { values[std::string(name)] = value; }
  } collect;
  forwarder.visit(collect);
  return collect.values;
}

class Forward : public testing::Test {
 protected:
  std::span<Packet> forward(std::vector<Packet>& burst, DomainId domain = DomainId::kHost) {
    return forwarder_.forward(BurstInfo{.domain = domain}, burst, *by_port_);
  }
  void install(PortId port, Lane& lane) { (*by_port_)[raw(port)] = &lane; }

  Forwarder forwarder_;
  std::unique_ptr<LanesByPort> by_port_ = std::make_unique<LanesByPort>();
  RecordingLane nic_{DomainId::kHost}, app_{domain_of(kApp)}, other_{domain_of(kOther)};
};

TEST_F(Forward, CallsADestinationOncePerBurstWhenAllPacketsGoThere) {
  install(kNic, nic_);
  auto burst = burst_to({kNic, kNic, kNic});
  auto rest = forward(burst);
  ASSERT_EQ(nic_.calls.size(), 1u);
  EXPECT_EQ(nic_.calls[0].pages, pages({0, 1, 2}));
  EXPECT_EQ(rest.data(), burst.data()) << "one destination: nothing is moved";
}

TEST_F(Forward, HandsOverWithinADomainAndCopiesAcross) {  // D1
  install(kNic, nic_);
  install(kApp, app_);
  for (bool from_app : {false, true}) {
    auto burst = burst_to({kNic, kApp});
    forward(burst, from_app ? domain_of(kApp) : DomainId::kHost);
    EXPECT_EQ(nic_.calls.back().hand_over, !from_app);
    EXPECT_EQ(app_.calls.back().hand_over, from_app);
  }
}

TEST_F(Forward, CopiesFramesThatHaveNoPageAlsoWithinADomain) {
  install(kApp, app_);
  auto burst = burst_to({kApp, kApp});
  for (Packet& packet : burst) {
    packet.page = PageIndex::kNone;
  }
  forward(burst, domain_of(kApp));
  ASSERT_EQ(app_.calls.size(), 1u);
  EXPECT_FALSE(app_.calls[0].hand_over);
}

// Takes bodies in so many segments and no more; keeps the frames.
class FewSegmentsLane final : public Lane {
 public:
  explicit FewSegmentsLane(std::uint32_t segments) : Lane({.segments = segments}) {}
  std::vector<Bytes> frames;
  std::size_t most = 0;

  void copy_in(const BurstInfo&, std::span<Packet> packets) override {
    for (const Packet& packet : packets) {
      frames.push_back(bytes_of(packet));
      most = std::max(most, packet.segments().size());
    }
  }
  std::uint32_t burst(std::span<Packet>, BurstInfo&) override { return 0; }
  void done(std::span<const Packet>) override {}
  int wake_fd() const override { return -1; }
  bool prepare_sleep() override { return false; }
};

TEST_F(Forward, PutsTogetherWhatASinkDoesNotTakeInSoManySegments) {
  std::mt19937 random(20261128);
  FewSegmentsLane one(1), three(3), any(Capabilities::kAnySegments);
  const std::map<PortId, FewSegmentsLane*> lanes{{kNic, &one}, {kApp, &three}, {kOther, &any}};
  for (auto [port, lane] : lanes) {
    install(port, *lane);
  }
  std::map<PortId, std::vector<Bytes>> sent;
  std::vector<std::unique_ptr<ScatteredFrame>> scattered;
  std::vector<Packet> burst;
  BurstInfo info{.port = PortId{9}};
  std::uint64_t bytes = 0;
  while (burst.size() < kBurst && bytes + 65535 <= kTurnBytes) {
    const PortId port = std::next(lanes.begin(), static_cast<long>(below(random, 3)))->first;
    const Bytes frame = numbered_frame(static_cast<std::uint32_t>(burst.size()), 60 + below(random, 12'000));
    scattered.push_back(std::make_unique<ScatteredFrame>(frame, 60, 1 + below(random, 30), random));
    burst.push_back(scattered.back()->packet());
    burst.back().port = port;
    info.most_segments =
        std::max(info.most_segments, static_cast<std::uint16_t>(burst.back().segments().size()));
    sent[port].push_back(frame);
    bytes += frame.size();
  }
  forwarder_.forward(info, burst, *by_port_);
  for (auto [port, lane] : lanes) {
    EXPECT_EQ(lane->frames, sent[port]);
    EXPECT_LE(lane->most, lane->accepts().segments);
  }
  EXPECT_GT(any.most, 3u);
  EXPECT_GT(counters(forwarder_)["linearised"], 0u);
}

TEST_F(Forward, GroupsAMixedBurstAndKeepsTheOrderWithinEachPort) {
  install(kNic, nic_);
  install(kApp, app_);
  install(kOther, other_);
  auto burst = burst_to({kApp, kNic, kApp, kOther, kNic, kApp});
  forward(burst);
  ASSERT_EQ(nic_.calls.size(), 1u);
  ASSERT_EQ(app_.calls.size(), 1u);
  ASSERT_EQ(other_.calls.size(), 1u);
  EXPECT_EQ(app_.calls[0].pages, pages({0, 2, 5}));
  EXPECT_EQ(nic_.calls[0].pages, pages({1, 4}));
  EXPECT_EQ(other_.calls[0].pages, pages({3}));
}

TEST_F(Forward, GivesBackWhatNobodyTook) {
  install(kNic, nic_);
  install(kApp, app_);
  nic_.takes = 1;
  auto burst = burst_to({kNic, kApp, kNic, PortId::kDrop, kOther});
  EXPECT_EQ(left(forward(burst)), pages({2, 1, 3, 4}));
}

TEST_F(Forward, CountsDropsByTheirName) {
  auto burst = burst_to(
      {PortId::kDrop, kApp, kApp, PortId{1023}, PortId::kKernel, PortId::kDrop, PortId{1024}, PortId{65535}});
  auto rest = forward(burst);
  EXPECT_EQ(left(rest).size(), 8u);
  auto values = counters(forwarder_);
  EXPECT_EQ(values["drop_verdict"], 2u);
  EXPECT_EQ(values["drop_no_reader"], 4u);
  EXPECT_EQ(values["drop_bad_port"], 2u);
  EXPECT_EQ(values["groups"], 0u);
  EXPECT_EQ(forwarder_.no_reader(kApp), 2u);
  EXPECT_EQ(forwarder_.no_reader(PortId{1023}), 1u);
  EXPECT_EQ(forwarder_.no_reader(PortId::kKernel), 1u);
  EXPECT_EQ(forwarder_.no_reader(kOther), 0u);
}

TEST_F(Forward, DoesNothingWithAnEmptyBurst) {
  std::vector<Packet> none;
  EXPECT_TRUE(forward(none).empty());
}

TEST_F(Forward, StopsAtABurstThatIsLongerThanABurst) {
  auto burst = burst_to(std::vector<PortId>(kBurst + 1, kApp));
  EXPECT_DEATH(forward(burst), "burst of 65");
}

TEST_F(Forward, ServesAsManyPortsAsABurstHasPackets) {
  std::vector<PortId> ports;
  std::vector<std::unique_ptr<RecordingLane>> lanes;
  for (std::uint16_t i = 0; i < kBurst; ++i) {
    ports.push_back(PortId{static_cast<std::uint16_t>(kMaxPorts - 1 - i)});
    lanes.push_back(std::make_unique<RecordingLane>(DomainId::kHost));
    install(ports.back(), *lanes.back());
  }
  auto burst = burst_to(ports);
  EXPECT_TRUE(left(forward(burst)).empty());
  for (std::uint32_t i = 0; i < kBurst; ++i) {
    ASSERT_EQ(lanes[i]->calls.size(), 1u);
    EXPECT_EQ(lanes[i]->calls[0].pages, pages({i}));
  }
}

// Every way to send a burst of 6 packets to 3 ports and to nobody: 4096 bursts.
TEST_F(Forward, Model_EveryGroupingOfAShortBurst) {
  install(kNic, nic_);
  install(kApp, app_);
  const std::array<PortId, 4> choice{kNic, kApp, kOther, PortId::kDrop};
  for (std::uint32_t code = 0; code < 4096; ++code) {
    std::vector<PortId> ports;
    std::vector<PageIndex> to_nic, to_app;
    for (std::uint32_t i = 0, digits = code; i < 6; ++i, digits /= 4) {
      ports.push_back(choice[digits % 4]);
      if (ports.back() == kNic) {
        to_nic.push_back(PageIndex{i});
      } else if (ports.back() == kApp) {
        to_app.push_back(PageIndex{i});
      }
    }
    nic_.calls.clear();
    app_.calls.clear();
    auto burst = burst_to(ports);
    auto rest = forward(burst);
    ASSERT_EQ(nic_.calls.size(), to_nic.empty() ? 0u : 1u) << code;
    ASSERT_EQ(app_.calls.size(), to_app.empty() ? 0u : 1u) << code;
    if (!to_nic.empty()) {
      ASSERT_EQ(nic_.calls[0].pages, to_nic) << code;
    }
    if (!to_app.empty()) {
      ASSERT_EQ(app_.calls[0].pages, to_app) << code;
    }
    ASSERT_EQ(left(rest).size(), 6 - to_nic.size()) << code;
  }
}

// Random bursts against what the rule says packet by packet.
TEST_F(Forward, Model_RandomWalk) {
  std::mt19937 random(7);
  constexpr std::uint16_t kPorts = 40;
  std::vector<std::unique_ptr<RecordingLane>> lanes;
  for (std::uint16_t i = 0; i < kPorts; ++i) {
    lanes.push_back(std::make_unique<RecordingLane>(DomainId{static_cast<std::uint16_t>(i % 3)}));
  }
  std::map<std::uint16_t, std::uint64_t> no_reader;
  std::uint64_t no_reader_total = 0, verdict = 0, groups = 0;
  for (int round = 0; round < 20'000; ++round) {
    // Tables change between bursts, as apps come and go.
    const auto flip = static_cast<std::uint16_t>(random() % kPorts);
    auto& entry = (*by_port_)[flip + 2u];
    entry = entry == nullptr ? lanes[flip].get() : nullptr;

    const DomainId domain{static_cast<std::uint16_t>(random() % 3)};
    const auto spread = 1 + random() % kPorts;
    std::vector<PortId> ports(1 + random() % kBurst);
    std::map<std::uint16_t, std::vector<PageIndex>> expected;
    for (std::uint32_t i = 0; i < ports.size(); ++i) {
      ports[i] = PortId{static_cast<std::uint16_t>(1 + random() % spread)};
      const std::uint16_t port = raw(ports[i]);
      if (ports[i] == PortId::kDrop) {
        ++verdict;
      } else if ((*by_port_)[port] == nullptr) {
        ++no_reader[port];
        ++no_reader_total;
      } else {
        expected[port].push_back(PageIndex{i});
      }
    }
    std::size_t taken = 0;
    auto burst = burst_to(ports);
    for (auto& lane : lanes) {
      lane->calls.clear();
      lane->takes = static_cast<std::uint32_t>(random() % 8);
    }
    auto rest = forward(burst, domain);
    for (std::uint16_t i = 0; i < kPorts; ++i) {
      auto wanted = expected.find(static_cast<std::uint16_t>(i + 2));
      ASSERT_EQ(lanes[i]->calls.size(), wanted == expected.end() ? 0u : 1u);
      if (wanted != expected.end()) {
        ASSERT_EQ(lanes[i]->calls[0].pages, wanted->second);
        ASSERT_EQ(lanes[i]->calls[0].hand_over, lanes[i]->accepts().pages_of == domain);
        taken +=
            lanes[i]->calls[0].hand_over ? std::min<std::size_t>(lanes[i]->takes, wanted->second.size()) : 0;
      }
    }
    groups += expected.size();
    ASSERT_EQ(rest.size(), ports.size());
    ASSERT_EQ(left(rest).size(), ports.size() - taken);
  }
  auto values = counters(forwarder_);
  EXPECT_EQ(values["drop_verdict"], verdict);
  EXPECT_EQ(values["drop_no_reader"], no_reader_total);
  EXPECT_EQ(values["groups"], groups);
  for (const auto& [port, count] : no_reader) {
    EXPECT_EQ(forwarder_.no_reader(PortId{port}), count);
  }
}

}  // namespace
}  // namespace sluice
