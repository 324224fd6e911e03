#include "demux/demux.h"

#include <cap-ng.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "demux/demux_fixture.h"
#include "demux/random_traffic.h"

namespace sluice {
namespace {

using testing::Bytes;
using testing::DemuxTest;
using testing::NaiveParser;
using testing::PacketBuilder;
using testing::RandomTraffic;
using testing::test_run;

Bytes udp_to(std::uint16_t port, const char* from = "10.0.0.1") {
  return PacketBuilder().ipv4(from, "10.0.0.2").udp(4000, port).payload(18).build();
}

TEST_F(DemuxTest, WithoutRulesEveryPacketIsTheKernels) {
  auto result = run(udp_to(53));
  EXPECT_EQ(result.verdict, static_cast<std::uint32_t>(XDP_PASS));
  EXPECT_EQ(counters()["pass"], 1u);
  EXPECT_EQ(counters()["no_rule"], 1u);
}

TEST_F(DemuxTest, TheKindOfThePortIsTheVerdict) {
  ASSERT_TRUE(demux_->set_port(PortId{5}, {.kind = PortKind::kDetached}));
  use({rule("dst_port 1", 1, PortId::kKernel), rule("dst_port 2", 2, PortId::kDrop), rule("dst_port 3", 3),
       rule("dst_port 4", 4, PortId{4}), rule("dst_port 5", 5, PortId{5})});
  EXPECT_EQ(run(udp_to(1)).verdict, static_cast<std::uint32_t>(XDP_PASS));
  EXPECT_EQ(run(udp_to(2)).verdict, static_cast<std::uint32_t>(XDP_DROP));
  EXPECT_EQ(run(udp_to(3)).verdict, static_cast<std::uint32_t>(XDP_REDIRECT));
  EXPECT_EQ(run(udp_to(4)).verdict, static_cast<std::uint32_t>(XDP_DROP));
  EXPECT_EQ(run(udp_to(5)).verdict, static_cast<std::uint32_t>(XDP_DROP));
  EXPECT_EQ(counters(PortId{4})["drop_no_port"], 1u);
  EXPECT_EQ(counters(PortId{5})["drop_no_reader"], 1u);
  EXPECT_EQ(counters(PortId::kKernel)["packets"], 1u);
  EXPECT_EQ(counters(PortId::kDrop)["bytes"], udp_to(2).size());

  ASSERT_TRUE(demux_->set_port(PortId{5}, {.kind = PortKind::kSocket}));
  EXPECT_EQ(run(udp_to(5)).verdict, static_cast<std::uint32_t>(XDP_REDIRECT));
}

TEST_F(DemuxTest, MetadataStandsInFrontOfTheUnchangedFrame) {
  use({rule("dst_port 53", 65535)});
  Bytes frame = udp_to(53);
  auto result = run(frame);
  ASSERT_EQ(result.output.size(), frame.size() + sizeof(sluice_packet_meta));
  sluice_packet_meta meta = meta_of(result);
  EXPECT_EQ(sluice_meta_rule(meta), 65535u);
  EXPECT_EQ(sluice_meta_port(meta), raw(kPort));
  EXPECT_TRUE(std::equal(frame.begin(), frame.end(), result.output.begin() + sizeof meta));
}

TEST_F(DemuxTest, APacketThatTakesNoMetadataIsDroppedAndCounted) {
  use({rule("dst_port 53")});
  Bytes frame(216);  // leaves 40 bytes of headroom, which are the kernel's own
  Bytes packet = udp_to(53);
  frame.insert(frame.end(), packet.begin(), packet.end());
  auto result = run(frame, {.metadata_bytes = 216});
  ASSERT_EQ(result.error, 0) << std::strerror(result.error);
  EXPECT_EQ(result.verdict, static_cast<std::uint32_t>(XDP_DROP));
  EXPECT_EQ(counters(kPort)["drop_no_metadata"], 1u);
  EXPECT_EQ(counters()["drop_no_metadata"], 1u);
}

TEST_F(DemuxTest, AQueueWithoutASocketDropsAndCounts) {
  use({rule("dst_port 53")});
  ASSERT_TRUE(demux_->clear_socket(QueueId{0}));
  ASSERT_TRUE(demux_->clear_socket(QueueId{0}));  // gone already is as good
  EXPECT_EQ(run(udp_to(53)).verdict, static_cast<std::uint32_t>(XDP_DROP));
  EXPECT_EQ(counters(kPort)["drop_no_socket"], 1u);
  EXPECT_EQ(counters()["redirect_socket"], 0u);
  ASSERT_TRUE(demux_->set_socket(QueueId{0}, socket_.get()));
  EXPECT_EQ(run(udp_to(53)).verdict, static_cast<std::uint32_t>(XDP_REDIRECT));
  socket_.reset();  // the kernel takes a closed socket out by itself
  EXPECT_EQ(run(udp_to(53)).verdict, static_cast<std::uint32_t>(XDP_DROP));
  EXPECT_EQ(counters(kPort)["drop_no_socket"], 2u);
  EXPECT_TRUE(demux_->clear_socket(QueueId{0}));
}

TEST_F(DemuxTest, AQueueLeftToTheKernelPassesWhateverTheRulesSay) {
  use({rule("", 0, PortId::kDrop)});
  demux_->leave_to_kernel(QueueId{3});
  EXPECT_EQ(run(udp_to(53)).verdict, static_cast<std::uint32_t>(XDP_DROP));
  demux_->leave_to_kernel(QueueId{0});
  EXPECT_EQ(run(udp_to(53)).verdict, static_cast<std::uint32_t>(XDP_PASS));
}

TEST_F(DemuxTest, Malicious_AnOwnedQueueBringsItsOwnerNothingOfOthers) {
  ASSERT_TRUE(demux_->set_port(PortId{5}, {.kind = PortKind::kSocket}));
  use({rule("dst_port 1", 1), rule("dst_port 2", 2, PortId{5}), rule("dst_port 3", 3, PortId::kKernel),
       rule("dst_port 4", 4, PortId::kDrop)});
  demux_->set_queue_owner(QueueId{0}, kPort);
  for (int train = 0; train < 2; ++train) {
    EXPECT_EQ(run(udp_to(1)).verdict, static_cast<std::uint32_t>(XDP_REDIRECT));
    EXPECT_EQ(run(udp_to(2)).verdict, static_cast<std::uint32_t>(XDP_DROP)) << "another port's";
    EXPECT_EQ(run(udp_to(2)).verdict, static_cast<std::uint32_t>(XDP_DROP)) << "and of a train";
  }
  EXPECT_EQ(run(udp_to(3)).verdict, static_cast<std::uint32_t>(XDP_PASS));
  EXPECT_EQ(run(udp_to(4)).verdict, static_cast<std::uint32_t>(XDP_DROP));
  EXPECT_EQ(run(udp_to(9)).verdict, static_cast<std::uint32_t>(XDP_PASS))
      << "without a rule it is the kernel's";
  EXPECT_EQ(counters(PortId{5})["drop_owned_queue"], 4u);
  EXPECT_EQ(demux_->drops_on_owned_queue(QueueId{0}), 4u);
  EXPECT_EQ(demux_->drops_on_owned_queue(QueueId{1}), 0u);
  demux_->set_queue_owner(QueueId{0}, std::nullopt);
  EXPECT_EQ(run(udp_to(2)).verdict, static_cast<std::uint32_t>(XDP_REDIRECT)) << "shared again";
  demux_->leave_to_kernel(QueueId{0});
  demux_->set_queue_owner(QueueId{0}, kPort);
  EXPECT_EQ(run(udp_to(1)).verdict, static_cast<std::uint32_t>(XDP_PASS)) << "was never given to us";
}

TEST_F(DemuxTest, WhatBridgesDoNotForwardReachesTrustedPortsAndTheKernelOnly) {
  use({rule("", 1)});
  const auto verdict = [&](int last, std::uint16_t type) {
    Bytes frame(60);
    const std::array<int, 6> to{0x01, 0x80, 0xc2, 0, 0, last};
    std::ranges::transform(to, frame.begin(),
                           [](int byte) { return static_cast<decltype(frame)::value_type>(byte); });
    frame[12] = static_cast<decltype(frame)::value_type>(type >> 8);
    frame[13] = static_cast<decltype(frame)::value_type>(type & 0xff);
    return run(frame).verdict;
  };
  constexpr auto kDropped = static_cast<std::uint32_t>(XDP_DROP),
                 kSent = static_cast<std::uint32_t>(XDP_REDIRECT);
  for (int last : {0, 1, 2, 14, 15}) {
    EXPECT_EQ(verdict(last, 0x88cc), kDropped) << last;
    EXPECT_EQ(verdict(last, 0x88cc), kDropped) << "a train of them";
  }
  EXPECT_EQ(verdict(16, 0x88cc), kSent);
  EXPECT_EQ(verdict(33, 0x8808), kDropped) << "MAC control to any address";
  EXPECT_EQ(counters(kPort)["drop_reserved"], 11u);
  ASSERT_TRUE(demux_->set_port(kPort, {.kind = PortKind::kSocket, .trusted = true}));
  EXPECT_EQ(verdict(0, 0x88cc), kSent);
  EXPECT_EQ(verdict(33, 0x8808), kSent);
  ASSERT_TRUE(demux_->set_port(kPort, {.kind = PortKind::kSocket}));
  use({rule("", 1, PortId::kKernel)});
  EXPECT_EQ(verdict(0, 0x88cc), static_cast<std::uint32_t>(XDP_PASS)) << "rules to the kernel stand";
}

TEST_F(DemuxTest, ShedRulesDropWhileAnyWorkerSaysThatThePortIsUnderPressure) {
  Rule shed = rule("dst_port 53", 1);
  shed.shed = true;
  use({shed, rule("dst_port 54", 2)});
  auto verdict = [&](std::uint16_t port) { return run(udp_to(port)).verdict; };
  EXPECT_EQ(verdict(53), static_cast<std::uint32_t>(XDP_REDIRECT));
  demux_->set_pressure(kPort, WorkerId{0}, true);
  demux_->set_pressure(kPort, WorkerId{63}, true);
  EXPECT_EQ(verdict(53), static_cast<std::uint32_t>(XDP_DROP));
  EXPECT_EQ(verdict(54), static_cast<std::uint32_t>(XDP_REDIRECT));
  demux_->set_pressure(kPort, WorkerId{0}, false);
  EXPECT_EQ(verdict(53), static_cast<std::uint32_t>(XDP_DROP));
  demux_->set_pressure(kPort, WorkerId{63}, false);
  EXPECT_EQ(verdict(53), static_cast<std::uint32_t>(XDP_REDIRECT));
  EXPECT_EQ(counters(kPort)["drop_shed"], 2u);
}

TEST_F(DemuxTest, APortThatIsTakenAwayForgetsItsPressure) {
  Rule shed = rule("dst_port 53");
  shed.shed = true;
  use({shed});
  demux_->set_pressure(kPort, WorkerId{7}, true);
  ASSERT_TRUE(demux_->set_port(kPort, {.kind = PortKind::kUnused}));
  ASSERT_TRUE(demux_->set_port(kPort, {.kind = PortKind::kSocket}));
  EXPECT_EQ(run(udp_to(53)).verdict, static_cast<std::uint32_t>(XDP_REDIRECT));
}

TEST_F(DemuxTest, PressureFromManyThreadsLosesNoBit) {
  Rule shed = rule("dst_port 53");
  shed.shed = true;
  use({shed});
  std::vector<std::thread> workers;
  for (std::uint16_t worker = 0; worker < 4; ++worker) {
    workers.emplace_back([&, worker] {
      for (int i = 0; i < 10'001; ++i) {
        demux_->set_pressure(kPort, WorkerId{worker}, i % 2 == 0);
      }
    });
  }
  for (auto& worker : workers) {
    worker.join();
  }
  for (std::uint16_t worker = 0; worker < 4; ++worker) {  // the last word of each was "on"
    EXPECT_EQ(run(udp_to(53)).verdict, static_cast<std::uint32_t>(XDP_DROP));
    demux_->set_pressure(kPort, WorkerId{worker}, false);
  }
  EXPECT_EQ(run(udp_to(53)).verdict, static_cast<std::uint32_t>(XDP_REDIRECT));
}

TEST_F(DemuxTest, CountsEveryPacketOncePerRulePortAndVerdict) {
  use({rule("dst_port 1", 1), rule("dst_port 2", 65535), rule("dst_port 3", 3, PortId::kDrop)});
  for (int i = 0; i < 10; ++i) run(udp_to(1));
  for (int i = 0; i < 5; ++i) run(udp_to(2));
  for (int i = 0; i < 3; ++i) run(udp_to(3));
  run(udp_to(4));
  std::size_t bytes = udp_to(1).size();
  EXPECT_EQ(demux_->rule_count(RuleSlot{1})->packets, 10u);
  EXPECT_EQ(demux_->rule_count(RuleSlot{1})->bytes, 10 * bytes);
  EXPECT_EQ(demux_->rule_count(RuleSlot{65535})->packets, 5u);
  EXPECT_EQ(demux_->rule_count(RuleSlot{2})->packets, 0u);
  EXPECT_EQ(counters(kPort)["packets"], 15u);
  EXPECT_EQ(counters(kPort)["bytes"], 15 * bytes);
  auto all = counters();
  EXPECT_EQ(all["pass"], 1u);
  EXPECT_EQ(all["no_rule"], 1u);
  EXPECT_EQ(all["drop"], 3u);
  EXPECT_EQ(all["redirect_socket"], 15u);
  EXPECT_EQ(all["redirect_netdev"], 0u);

  ASSERT_TRUE(demux_->clear_rule_count(RuleSlot{1}));
  run(udp_to(1));
  EXPECT_EQ(demux_->rule_count(RuleSlot{1})->packets, 1u);
  EXPECT_EQ(demux_->rule_count(RuleSlot{1})->bytes, bytes);
  EXPECT_FALSE(demux_->rule_count(RuleSlot{65536}));
  EXPECT_FALSE(demux_->clear_rule_count(RuleSlot::kNone));
}

// The program counts by rule only.
TEST_F(DemuxTest, APortHasCountedWhatItsRulesDidPresentAndPast) {
  constexpr PortId kOther{3};
  ASSERT_TRUE(demux_->set_port(kOther, {.kind = PortKind::kSocket}));
  auto send = [&](int packets) {
    for (int i = 0; i < packets; ++i) run(udp_to(1));
  };
  auto packets = [&](PortId port) { return counters(port)["packets"]; };
  use({rule("dst_port 1", 1), rule("dst_port 2", 2)});
  send(10);
  ASSERT_TRUE(demux_->clear_rule_count(RuleSlot{1}));
  EXPECT_EQ(packets(kPort), 10u) << "of the port, not of the rule";

  use({rule("dst_port 2", 2)});
  send(1);
  EXPECT_EQ(packets(kPort), 10u) << "its rule is gone";

  use({rule("dst_port 1", 1, kOther)});
  send(5);
  EXPECT_EQ(packets(kPort), 10u) << "another port's rule has the slot now";
  EXPECT_EQ(packets(kOther), 5u);

  use({rule("dst_port 1", 1)});  // from port to port in one step
  send(2);
  EXPECT_EQ(packets(kPort), 12u);
  EXPECT_EQ(packets(kOther), 5u);
  EXPECT_EQ(counters(kPort)["bytes"], 12 * udp_to(1).size());
}

TEST_F(DemuxTest, QueuesThatTheNicDoesNotHaveAreErrors) {
  EXPECT_EQ(demux_->set_socket(QueueId{4}, socket_.get()).error().message,
            "queue 4 of a NIC with 4 RX queues");
  EXPECT_FALSE(demux_->clear_socket(QueueId{4}));
  EXPECT_FALSE(demux_->set_socket(QueueId{1}, 0));  // not an AF_XDP socket
  EXPECT_FALSE(Demux::load(0));
  EXPECT_FALSE(Demux::load(65537));
}

TEST_F(DemuxTest, ASetThatDoesNotCompileLeavesTheOldOneInPlace) {
  use({rule("dst_port 53", 7)});
  std::vector<Rule> bad;
  for (std::uint32_t i = 0; i <= 64; ++i) {
    bad.push_back(rule(fmt::format("src_ip 2001:db8::/{}", i + 30), i));
  }
  auto replaced = demux_->replace_rules(bad);
  ASSERT_FALSE(replaced);
  EXPECT_NE(replaced.error().message.find("at most 64"), std::string::npos);
  EXPECT_EQ(slot_of(udp_to(53)), 7);
}

TEST_F(DemuxTest, SixtyFiveThousandRulesEachFindTheirPacket) {
  std::vector<Rule> rules;
  for (std::uint32_t i = 0; i < kMaxRules; ++i) {
    IpMatch source{.v6 = false,
                   .value = {10, 0, static_cast<std::uint8_t>(i >> 8), static_cast<std::uint8_t>(i)},
                   .prefix = 32};
    rules.push_back({.match = {.ip_proto = 17, .src_ip = source}, .port = kPort, .slot = RuleSlot{i}});
  }
  use(rules);
  for (std::uint32_t i = 0; i < kMaxRules; i += 13) {
    ASSERT_EQ(slot_of(udp_to(1, fmt::format("10.0.{}.{}", i >> 8, i & 255).c_str())), i);
  }
  EXPECT_EQ(slot_of(udp_to(1, "10.1.0.0")), -1);
}

TEST_F(DemuxTest, Model_TheKernelAgreesWithTheNaiveMatcherOnRandomRulesAndFrames) {
  std::size_t hits = 0, frames = 0;
  for (std::uint32_t seed = 1000; seed < 1060; ++seed) {
    RandomTraffic random(seed);
    std::vector<Rule> rules =
        random.rules(1 + random.below(seed % 10 == 0 ? 1000 : 60), 1 + random.below(50));
    for (Rule& rule : rules) {
      rule.port = kPort;
      rule.shed = false;
    }
    if (!demux_->replace_rules(rules)) {
      continue;  // too many overlapping ranges: compile_test holds that error to its word
    }
    for (int n = 0; n < 300; ++n) {
      Bytes frame = random.frame();
      if (frame.size() < 14) {
        continue;
      }
      NaiveParser parser(frame);
      const Rule* winner = testing::naive_winner(rules, parser.seen());
      ASSERT_EQ(slot_of(frame), winner ? static_cast<std::int64_t>(raw(winner->slot)) : -1)
          << "seed " << seed << " frame " << n;
      hits += winner != nullptr;
      ++frames;
    }
  }
  EXPECT_GT(frames, 10'000u);
  EXPECT_GT(hits, frames / 4);
}

// Two complete sets that differ in every rule. A packet that met half a set would find the catch-all, another
// set's slot, or nothing.
TEST_F(DemuxTest, NoPacketEverMeetsHalfARuleSet) {
  constexpr std::uint32_t kEach = 2000;
  auto make_set = [&](std::uint32_t first_slot, PortId port, PortId never) {
    std::vector<Rule> rules;
    for (std::uint32_t i = 0; i < kEach; ++i) {
      rules.push_back(rule(fmt::format("ip_proto udp dst_port {}", i + 1), first_slot + i, port, 1));
    }
    rules.push_back(rule("", first_slot + kEach, never));
    return rules;
  };
  auto first = make_set(0, PortId{2}, PortId{4});
  auto second = make_set(10'000, PortId{3}, PortId{4});
  for (PortId port : {PortId{3}, PortId{4}}) {
    ASSERT_TRUE(demux_->set_port(port, {.kind = PortKind::kSocket}));
  }
  use(first);

  std::atomic<bool> stop = false;
  std::atomic<std::uint64_t> of_first = 0, of_second = 0, wrong = 0;
  std::thread packets([&] {
    for (std::uint32_t i = 0; !stop; i = (i + 1) % kEach) {
      auto result = test_run(demux_->program_fd(), udp_to(static_cast<std::uint16_t>(i + 1)));
      sluice_packet_meta meta{};
      if (result.output.size() >= sizeof meta) {
        std::memcpy(&meta, result.output.data(), sizeof meta);
      }
      if (sluice_meta_port(meta) == 2 && sluice_meta_rule(meta) == i) {
        ++of_first;
      } else if (sluice_meta_port(meta) == 3 && sluice_meta_rule(meta) == 10'000 + i) {
        ++of_second;
      } else {
        ++wrong;
      }
    }
  });
  int swaps = 0;
  for (; swaps < 200 || ((of_first == 0 || of_second == 0) && swaps < 5000); ++swaps) {
    if (!demux_->replace_rules(swaps % 2 == 0 ? second : first)) {
      ++wrong;
    }
  }
  stop = true;
  packets.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_GT(of_first, 0u);
  EXPECT_GT(of_second, 0u);
}

TEST_F(DemuxTest, AfterReplacementReturnsNoPacketMeetsTheOldSet) {
  for (std::uint32_t i = 0; i < 50; ++i) {
    use({rule("dst_port 53", i)});
    ASSERT_EQ(slot_of(udp_to(53)), i);
  }
}

// The same packet over and over, on another CPU: what that CPU keeps of its last lookup is of the old set.
TEST_F(DemuxTest, AfterReplacementReturnsNoTrainMeetsTheOldSet) {
  use({rule("dst_port 53", 0)});
  std::atomic<bool> stop = false;
  std::atomic<std::uint32_t> present = 0;
  std::uint32_t old = 0, newest = 0, trains = 0;
  std::thread packets([&] {
    while (!stop) {
      const std::uint32_t at_least = present;
      auto result = test_run(demux_->program_fd(), udp_to(53));
      const std::uint32_t slot = sluice_meta_rule(meta_of(result));
      old += slot < at_least;
      trains += slot == newest;
      newest = std::max(newest, slot);
    }
  });
  for (std::uint32_t slot = 1; slot < 100; ++slot) {
    use({rule("dst_port 53", slot)});
    present = slot;
  }
  stop = true;
  packets.join();
  EXPECT_EQ(old, 0u);
  EXPECT_GT(newest, 50u);
  EXPECT_GT(trains, 0u);
}

// The program keeps what it found for the last key. What differs from that one in any field is another key.
TEST_F(DemuxTest, APacketThatDiffersFromTheLastInOneFieldOnlyFindsItsOwnRule) {
  const auto v4 = [] { return PacketBuilder().ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).payload(18); };
  const auto v6 = [](const char* from, const char* to) {
    return PacketBuilder().ipv6(from, to).udp(1, 2).payload(18).build();
  };
  const Bytes plain4 = v4().build(), plain6 = v6("fd00::1:0:0:1", "fd00::2:0:0:1");
  const std::vector<std::pair<const char*, Bytes>> variants = {
      {"dst_mac 02:00:00:00:00:99",
       [&] {
         auto f = plain4;
         f[5] = 0x99;
         return f;
       }()},
      {"src_mac 02:00:00:00:00:99",
       [&] {
         auto f = plain4;
         f[11] = 0x99;
         return f;
       }()},
      {"vlan_id 5", PacketBuilder().tag(5).ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).payload(18).build()},
      {"src_ip 10.0.0.3", PacketBuilder().ipv4("10.0.0.3", "10.0.0.2").udp(1, 2).payload(18).build()},
      {"dst_ip 10.0.0.4", PacketBuilder().ipv4("10.0.0.1", "10.0.0.4").udp(1, 2).payload(18).build()},
      {"ip_proto tcp", PacketBuilder().ipv4("10.0.0.1", "10.0.0.2").tcp(1, 2).payload(18).build()},
      {"src_port 3", PacketBuilder().ipv4("10.0.0.1", "10.0.0.2").udp(3, 2).payload(18).build()},
      {"dst_port 4", PacketBuilder().ipv4("10.0.0.1", "10.0.0.2").udp(1, 4).payload(18).build()},
      {"src_ip fd00::3:0:0:1", v6("fd00::3:0:0:1", "fd00::2:0:0:1")},
      {"src_ip fd00::1:0:0:4", v6("fd00::1:0:0:4", "fd00::2:0:0:1")},
      {"dst_ip fd00::5:0:0:1", v6("fd00::1:0:0:1", "fd00::5:0:0:1")},
      {"dst_ip fd00::2:0:0:6", v6("fd00::1:0:0:1", "fd00::2:0:0:6")},
  };
  std::vector<Rule> rules = {rule("", 0)};
  for (const auto& [match, frame] : variants) {
    rules.push_back(rule(match, static_cast<std::uint32_t>(rules.size()), kPort, 1));
  }
  use(rules);
  for (std::size_t i = 0; i < variants.size(); ++i) {
    const auto& [match, frame] = variants[i];
    const Bytes& plain = std::string_view(match).find("fd00") == std::string_view::npos ? plain4 : plain6;
    for (int again = 0; again < 2; ++again) {
      EXPECT_EQ(slot_of(plain), 0) << match;
      EXPECT_EQ(slot_of(frame), static_cast<std::int64_t>(i + 1)) << match;
      EXPECT_EQ(slot_of(frame), static_cast<std::int64_t>(i + 1)) << match;
    }
  }
}

// Loads in a child that holds only `capabilities`; the error, or "".
std::string load_with(std::initializer_list<unsigned> capabilities) {
  int channel[2];
  EXPECT_EQ(::pipe2(channel, O_CLOEXEC), 0);
  ::fflush(nullptr);
  pid_t child = ::fork();
  if (child == 0) {
    ::capng_clear(CAPNG_SELECT_BOTH);
    for (unsigned capability : capabilities) {
      ::capng_update(CAPNG_ADD, static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED), capability);
    }
    ::capng_apply(CAPNG_SELECT_CAPS);
    auto demux = Demux::load(1);
    std::string message = demux ? "" : demux.error().message;
    bool sent = ::write(channel[1], message.data(), message.size()) == static_cast<ssize_t>(message.size());
    ::_exit(sent ? 0 : 1);
  }
  UniqueFd reader(channel[0]);
  ::close(channel[1]);
  std::string message(4096, 0);
  ssize_t length = ::read(reader.get(), message.data(), message.size());
  message.resize(length > 0 ? static_cast<std::size_t>(length) : 0);
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  return message;
}

TEST(DemuxPrivilege, TheErrorNamesTheCapabilitiesThatAreMissing) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "needs root, to drop what it has";
  }
  EXPECT_EQ(load_with({CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON}), "");
  EXPECT_EQ(load_with({CAP_SYS_ADMIN, CAP_NET_ADMIN}), "");
  const char* kEnd = " is missing (run as root, or grant it)";
  for (const auto& [message, missing] : {std::pair{load_with({CAP_NET_ADMIN, CAP_PERFMON}), "CAP_BPF"},
                                         {load_with({CAP_BPF, CAP_NET_ADMIN}), "CAP_PERFMON"},
                                         {load_with({CAP_BPF, CAP_PERFMON}), "CAP_NET_ADMIN"},
                                         {load_with({}), "CAP_BPF and CAP_PERFMON and CAP_NET_ADMIN"}}) {
    EXPECT_TRUE(message.starts_with(fmt::format("cannot load the XDP program: {}{}", missing, kEnd)))
        << message;
  }
}

}  // namespace
}  // namespace sluice
