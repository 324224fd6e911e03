#include "worker/forward/switch.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "port/fake/fake.h"
#include "port/fake/lane_conformance.h"
#include "worker/count_allocations.h"
#include "worker/forward/switch_fixture.h"
#include "worker/worker.h"

namespace sluice {
namespace {

using testing::counters_of;
using testing::kBroadcastMac;
using testing::mac_of;
using testing::switch_frame;
using testing::SwitchBench;
using Ports = std::vector<PortId>;

constexpr PortId kNic{100}, kOtherNic{101};
constexpr PortId kA{10}, kB{11}, kC{12}, kApp{13}, kHost{14};
constexpr MacAddress kStranger{2, 9, 9, 9, 9, 9};
constexpr MacAddress kMulticast{0x33, 0x33, 0, 0, 0, 1};

SwitchPort member(PortId port, SwitchMode mode = SwitchMode::kBridge, std::uint16_t vlan = 0,
                  PortId uplink = kNic) {
  return {.port = port,
          .uplink = uplink,
          .mode = mode,
          .vlan = vlan,
          .macs = {mac_of(static_cast<std::uint8_t>(raw(port)))}};
}
MacAddress mac_at(PortId port) {
  return mac_of(static_cast<std::uint8_t>(raw(port)));
}

// One frame through a switch of these members; who got it.
Ports sent(std::vector<SwitchPort> members, PortId from, const MacAddress& to, std::uint16_t vlan = 0,
           PortId uplink = kNic) {
  Switch switching(std::move(members));
  SwitchBench bench(switching);
  for (PortId port : {kA, kB, kC, kApp, kHost, kNic, kOtherNic}) {
    bench.lane(port);
  }
  bench.send(from, uplink, {switch_frame(to, mac_at(from), vlan, 1)});
  return bench.who_got(1);
}
Ports heard(std::vector<SwitchPort> members, const MacAddress& from, std::uint16_t vlan = 0) {
  Switch switching(std::move(members));
  SwitchBench bench(switching);
  for (PortId port : {kA, kB, kC, kApp, kHost, kNic, kOtherNic}) {
    bench.lane(port);
  }
  bench.from_wire(kNic, {switch_frame(kBroadcastMac, from, vlan, 1)});
  return bench.who_got(1);
}

TEST(Switch, BridgePortsReachEachOtherByAddressAndAllElseByTheUplink) {
  EXPECT_EQ(sent({member(kA), member(kB)}, kA, mac_at(kB)), Ports{kB});
  EXPECT_EQ(sent({member(kA), member(kB)}, kA, kStranger), Ports{kNic});
  EXPECT_EQ(sent({member(kA), member(kB, SwitchMode::kBridge, 0, kOtherNic)}, kA, mac_at(kB)), Ports{kNic})
      << "another NIC is another segment";
  EXPECT_EQ(sent({member(kA), member(kB)}, kApp, mac_at(kB)), Ports{kB}) << "apps send as bridge ports do";
}

TEST(Switch, EveryAddressOfAPortLeadsToIt) {
  SwitchPort many = member(kB);
  for (std::uint8_t i = 0; i < 100; ++i) {
    many.macs.push_back({2, 1, 0, 0, 0, i});
  }
  EXPECT_EQ(sent({member(kA), many}, kA, {2, 1, 0, 0, 0, 99}), Ports{kB});
  EXPECT_EQ(sent({member(kA), many}, kA, mac_at(kB)), Ports{kB});
}

TEST(Switch, VepaAndPrivatePortsSendByTheUplinkOnlyAndAreReachedByNobodyHere) {
  for (SwitchMode mode : {SwitchMode::kVepa, SwitchMode::kPrivate}) {
    EXPECT_EQ(sent({member(kA, mode), member(kB)}, kA, mac_at(kB)), Ports{kNic});
    EXPECT_EQ(sent({member(kA, mode), member(kB)}, kA, kBroadcastMac), Ports{kNic});
    EXPECT_EQ(sent({member(kA), member(kB, mode)}, kA, mac_at(kB)), Ports{kNic});
    EXPECT_EQ(sent({member(kA), member(kB, mode), member(kC)}, kA, kMulticast), (Ports{kC, kNic}));
  }
}

TEST(Switch, AFrameNeverComesBackToItsSender) {
  EXPECT_EQ(sent({member(kA), member(kB)}, kA, mac_at(kA)), Ports{kNic});
  EXPECT_EQ(sent({member(kA), member(kB), member(kC)}, kA, kBroadcastMac), (Ports{kB, kC, kNic}));
}

TEST(Switch, EachVlanIsASwitchOfItsOwn) {
  auto in = [](PortId port, std::uint16_t vlan) { return member(port, SwitchMode::kBridge, vlan); };
  EXPECT_EQ(sent({in(kA, 5), in(kB, 5)}, kA, mac_at(kB), 5), Ports{kB});
  EXPECT_EQ(sent({in(kA, 5), in(kB, 6)}, kA, mac_at(kB), 5), Ports{kNic});
  EXPECT_EQ(sent({in(kA, 5), in(kB, 0)}, kA, mac_at(kB), 5), Ports{kNic});
  EXPECT_EQ(sent({in(kA, 5), in(kB, 5), in(kC, 6)}, kA, kBroadcastMac, 5), (Ports{kB, kNic}));
  EXPECT_EQ(sent({in(kA, 0), in(kB, 5), in(kC, 0)}, kA, kBroadcastMac), (Ports{kC, kNic}));
  EXPECT_EQ(heard({in(kA, 5), in(kB, 6), in(kC, 0)}, kStranger, 6), Ports{kB});
}

TEST(Switch, PortsWithoutAnUplinkFormASegmentOfTheirOwn) {
  auto in = [](PortId port) { return member(port, SwitchMode::kBridge, 0, PortId::kDrop); };
  EXPECT_EQ(sent({in(kA), in(kB), in(kC)}, kA, mac_at(kB), 0, PortId::kDrop), Ports{kB});
  EXPECT_EQ(sent({in(kA), in(kB), in(kC)}, kA, kBroadcastMac, 0, PortId::kDrop), (Ports{kB, kC}));
  EXPECT_EQ(sent({in(kA), in(kB), in(kC)}, kA, kStranger, 0, PortId::kDrop), Ports{});
}

TEST(Switch, WhatTheWireSaysToEverybodyReachesEveryPortOfThatNic) {
  EXPECT_EQ(heard({member(kA), member(kB, SwitchMode::kVepa), member(kC, SwitchMode::kPrivate),
                   member(kHost, SwitchMode::kBridge, 0, kOtherNic)},
                  kStranger),
            (Ports{kA, kB, kC}));
}

// An external switch in hairpin mode sends back what local ports have sent.
TEST(Switch, WhatComesBackFromTheWireIsHeardAsMacvtapHasIt) {
  const std::vector<SwitchPort> all = {member(kA), member(kB, SwitchMode::kVepa),
                                       member(kC, SwitchMode::kPrivate), member(kHost, SwitchMode::kVepa),
                                       member(kApp)};
  EXPECT_EQ(heard(all, mac_at(kB)), (Ports{kA, kApp, kHost}))
      << "of a vepa port: all but itself and private ones";
  EXPECT_EQ(heard(all, mac_at(kA)), (Ports{kB, kHost}))
      << "of a bridge port: bridge ports have heard it already";
  EXPECT_EQ(heard(all, mac_at(kC)), Ports{}) << "of a private port: nobody";
}

TEST(Switch, AMemberWithoutAddressesHearsNoFloods) {
  SwitchPort silent = member(kApp);
  silent.macs.clear();
  EXPECT_EQ(sent({member(kA), member(kB), silent}, kA, kBroadcastMac), (Ports{kB, kNic}));
  EXPECT_EQ(sent({member(kA), silent}, kApp, kBroadcastMac), (Ports{kA, kNic})) << "but floods itself";
}

TEST(Switch, WhereNobodyElseListensABroadcastIsAFrameLikeAnyOther) {
  Switch switching({member(kA), member(kB, SwitchMode::kVepa)});
  SwitchBench bench(switching);
  bench.lane(kNic);
  bench.send(kA, kNic, {switch_frame(kBroadcastMac, mac_at(kA), 0, 1)});
  EXPECT_EQ(bench.who_got(1), Ports{kNic});
  EXPECT_EQ(bench.counters()["flooded"], 0u);
}

TEST(Switch, Malicious_FramesThatEndAnywhereAreForTheUplink) {
  Switch switching({member(kA), member(kB, SwitchMode::kBridge, 7)});
  const auto whole = switch_frame(mac_at(kB), mac_at(kA), 7, 1);
  for (std::uint16_t bytes = 0; bytes < 18; ++bytes) {
    const std::vector<std::byte> cut(whole.begin(),
                                     whole.begin() + bytes);  // reads behind it: AddressSanitizer
    Packet packet{.head = cut.data(), .head_bytes = bytes, .port = kNic};
    switching.route(WorkerId{0}, {.port = kA, .uplink = kNic}, std::span(&packet, 1));
    EXPECT_EQ(packet.port, kNic) << bytes;
  }
}

TEST(Switch, KeepsTheOrderPerPortWhereFloodedAndOtherFramesMix) {
  Switch switching({member(kA), member(kB), member(kC)});
  SwitchBench bench(switching);
  for (PortId port : {kB, kC, kNic}) {
    bench.lane(port);
  }
  std::mt19937 random(1);
  std::uint32_t number = 0;
  for (int burst = 0; burst < 200; ++burst) {
    std::vector<std::vector<std::byte>> frames;
    for (std::uint32_t i = 0, size = 1 + static_cast<std::uint32_t>(random() % kBurst); i < size; ++i) {
      const MacAddress to[] = {mac_at(kB), mac_at(kC), kStranger, kBroadcastMac};
      frames.push_back(switch_frame(to[random() % 4], mac_at(kA), 0, number++));
    }
    bench.send(kA, kNic, frames);
  }
  for (const auto& [port, lane] : bench.lanes()) {
    EXPECT_GT(lane->got.size(), 1000u);
    EXPECT_TRUE(std::ranges::is_sorted(lane->got)) << raw(port);
    EXPECT_EQ(lane->handed_over + lane->wrong_port, 0u);
  }
}

TEST(Switch, Malicious_ABurstBecomesABoundedNumberOfCopies) {  // D6
  std::vector<SwitchPort> members;
  for (std::uint16_t i = 0; i < 200; ++i) {
    members.push_back({.port = PortId{static_cast<std::uint16_t>(200 + i)},
                       .uplink = kNic,
                       .macs = {{2, 3, 0, 0, 0, static_cast<std::uint8_t>(i)}}});
  }
  Switch switching(members);
  SwitchBench bench(switching);
  for (const SwitchPort& each : members) {
    bench.lane(each.port);
  }
  bench.lane(kNic);
  std::vector<std::vector<std::byte>> frames(kBurst, switch_frame(kBroadcastMac, mac_at(kApp), 0, 1));
  bench.send(kApp, kNic, frames);
  auto now = bench.counters();
  EXPECT_EQ(now["flooded"] + now["drop_flood_limit"], kBurst);
  EXPECT_LE(now["flood_copies"], kMaxFloodCopies);
  EXPECT_EQ(now["flood_copies"], now["flooded"] * 201);
  EXPECT_GT(now["flooded"], 0u);
}

TEST(Switch, Malicious_ABurstOfLongFramesBecomesABoundedNumberOfBytes) {  // D6
  constexpr std::uint32_t kOthers = 100, kLong = 60'000, kFrames = 4;
  std::vector<SwitchPort> members{member(kA)};
  for (std::uint16_t i = 0; i < kOthers; ++i) {
    members.push_back(member(PortId{static_cast<std::uint16_t>(100 + i)}));
  }
  Switch switching(members);
  SwitchBench bench(switching);
  for (std::uint16_t i = 0; i < kOthers; ++i) {
    bench.lane(PortId{static_cast<std::uint16_t>(100 + i)}).note = false;
  }
  bench.lane(kNic).note = false;
  auto frame = switch_frame(kBroadcastMac, mac_at(kA), 0, 1);
  frame.resize(kLong);
  bench.send(kA, kNic, std::vector(kFrames, frame));
  auto now = bench.counters();
  EXPECT_EQ(now["flooded"] + now["drop_flood_limit"], kFrames);
  EXPECT_GT(now["flooded"], 0u);
  EXPECT_LE((now["flood_copies"] - (kOthers + 1)) * kLong, kMaxFloodBytes) << "one frame goes in any case";
}

TEST(Switch, PortsThatNobodyReadsAreCountedAsSuch) {
  Switch switching({member(kA), member(kB), member(kC)});
  SwitchBench bench(switching);
  bench.lane(kC);
  bench.send(kA, kNic, {switch_frame(kBroadcastMac, mac_at(kA), 0, 1)});
  EXPECT_EQ(bench.who_got(1), Ports{kC});
  EXPECT_EQ(bench.counters()["drop_no_reader"], 2u) << "kB and the uplink";
}

TEST(Switch, WithoutOneNobodyHearsAFlood) {
  Forwarder forwarder;
  auto by_port = std::make_unique<LanesByPort>();
  testing::NotingLane a(kA);
  by_port->fill(&a);
  const auto frame = switch_frame(kBroadcastMac, kStranger, 0, 1);
  std::array<Packet, 2> burst{Packet{.body = frame.data(), .body_bytes = 64, .port = PortId::kFlood},
                              Packet{.body = frame.data(), .body_bytes = 64, .port = kA}};
  forwarder.forward({}, burst, *by_port);
  EXPECT_EQ(a.got.size(), 1u);
  EXPECT_EQ(counters_of(forwarder)["drop_bad_port"], 1u);
}

// --- against the rules written down again, one packet and one port at a time

bool listens(const SwitchPort& to, PortId uplink, std::uint16_t vlan) {
  return to.uplink == uplink && to.vlan == vlan && !to.macs.empty();
}
const SwitchPort* owner(const std::vector<SwitchPort>& members, PortId uplink, const MacAddress& mac,
                        std::uint16_t vlan) {
  for (const SwitchPort& each : members) {
    if (each.uplink == uplink && each.vlan == vlan && std::ranges::find(each.macs, mac) != each.macs.end()) {
      return &each;
    }
  }
  return nullptr;
}

std::vector<PortId> naive_sent(const std::vector<SwitchPort>& members, PortId from, PortId uplink,
                               const MacAddress& to, std::uint16_t vlan) {
  const Ports by_uplink = uplink == PortId::kDrop ? Ports{} : Ports{uplink};
  for (const SwitchPort& each : members) {
    if (each.port == from && each.mode != SwitchMode::kBridge) {
      return by_uplink;
    }
  }
  if ((to[0] & 1) == 0) {
    const SwitchPort* there = owner(members, uplink, to, vlan);
    const bool here = there != nullptr && there->mode == SwitchMode::kBridge && there->port != from;
    return here ? Ports{there->port} : by_uplink;
  }
  Ports all = by_uplink;
  for (const SwitchPort& each : members) {
    if (listens(each, uplink, vlan) && each.mode == SwitchMode::kBridge && each.port != from) {
      all.push_back(each.port);
    }
  }
  std::ranges::sort(all);
  return all;
}

std::vector<PortId> naive_heard(const std::vector<SwitchPort>& members, PortId nic, const MacAddress& from,
                                std::uint16_t vlan) {
  const SwitchPort* sender = owner(members, nic, from, vlan);
  Ports all;
  for (const SwitchPort& each : members) {
    bool hears = listens(each, nic, vlan);
    if (sender != nullptr) {
      hears = hears && each.port != sender->port && each.mode != SwitchMode::kPrivate &&
              sender->mode != SwitchMode::kPrivate &&
              !(sender->mode == SwitchMode::kBridge && each.mode == SwitchMode::kBridge);
    }
    if (hears) {
      all.push_back(each.port);
    }
  }
  std::ranges::sort(all);
  return all;
}

class RandomSwitch {
 public:
  explicit RandomSwitch(std::uint32_t seed) : random_(seed) {}
  std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(random_() % n); }
  PortId uplink() {
    constexpr PortId kUplinks[] = {PortId::kDrop, kNic, kOtherNic};
    return kUplinks[below(3)];
  }
  std::uint16_t vlan() { return static_cast<std::uint16_t>(below(3) * 7); }
  MacAddress mac() { return below(5) == 0 ? kBroadcastMac : mac_of(static_cast<std::uint8_t>(below(20))); }
  std::vector<SwitchPort> members() {
    std::vector<SwitchPort> made;
    for (std::uint32_t i = 0, count = below(16); i < count; ++i) {
      SwitchPort each{.port = PortId{static_cast<std::uint16_t>(2 + i)},
                      .uplink = uplink(),
                      .mode = SwitchMode{static_cast<std::uint8_t>(below(3))},
                      .vlan = vlan(),
                      .macs = {}};
      for (std::uint32_t n = below(4); n > 0; --n) {
        each.macs.push_back(mac_of(static_cast<std::uint8_t>(below(20))));
      }
      made.push_back(each);
    }
    return made;
  }

 private:
  std::mt19937 random_;
};

TEST(Switch, Model_AgreesWithTheRulesWrittenDownPortByPort) {
  std::uint64_t local = 0, floods = 0;
  for (std::uint32_t seed = 0; seed < 400; ++seed) {
    RandomSwitch random(seed);
    const std::vector<SwitchPort> members = random.members();
    Switch switching(members);
    SwitchBench bench(switching);
    for (std::uint16_t port = 2; port < 20; ++port) {
      bench.lane(PortId{port});
    }
    bench.lane(kNic);
    bench.lane(kOtherNic);
    std::map<std::uint32_t, Ports> expected;
    std::uint32_t number = 0;
    for (int burst = 0; burst < 20; ++burst) {
      // Ports 18 and 19 are apps: no members.
      const PortId from{
          static_cast<std::uint16_t>(random.below(3) == 0 ? 18 + random.below(2) : 2 + random.below(18))};
      PortId uplink = random.uplink();
      for (const SwitchPort& each : members) {
        uplink = each.port == from ? each.uplink : uplink;
      }
      const bool wire = random.below(4) == 0;
      std::vector<std::vector<std::byte>> frames;
      for (std::uint32_t i = 0, size = 1 + random.below(kBurst); i < size; ++i) {
        const MacAddress to = wire ? kBroadcastMac : random.mac(),
                         source = mac_of(static_cast<std::uint8_t>(random.below(20)));
        const std::uint16_t vlan = random.vlan();
        expected[number] =
            wire ? naive_heard(members, uplink, source, vlan) : naive_sent(members, from, uplink, to, vlan);
        local += !wire && (to[0] & 1) == 0 && expected[number] != Ports{uplink} ? 1 : 0;
        floods += expected[number].size() > 1 ? 1 : 0;
        frames.push_back(switch_frame(to, source, vlan, number++));
      }
      wire ? bench.from_wire(uplink, frames) : bench.send(from, uplink, frames);
    }
    for (const auto& [n, ports] : expected) {
      ASSERT_EQ(bench.who_got(n), ports) << "seed " << seed << " frame " << n;
    }
  }
  EXPECT_GT(local, 5000u);
  EXPECT_GT(floods, 5000u);
}

TEST(Switch, AllocatesNothingPerPacket) {
  if (!allocation_count()) {
    GTEST_SKIP() << "allocations cannot be counted under ThreadSanitizer";
  }
  Switch switching({member(kA), member(kB), member(kC)});
  Forwarder forwarder;
  auto by_port = std::make_unique<LanesByPort>();
  testing::NotingLane b(kB), nic(kNic);
  b.note = nic.note = false;
  (*by_port)[raw(kB)] = &b;
  (*by_port)[raw(kNic)] = &nic;
  const std::vector<std::vector<std::byte>> frames = {switch_frame(mac_at(kB), mac_at(kA), 0, 1),
                                                      switch_frame(kBroadcastMac, mac_at(kA), 0, 2),
                                                      switch_frame(kStranger, mac_at(kA), 0, 3)};
  std::array<Packet, kBurst> burst;
  const std::uint64_t before = *allocation_count();
  for (int turn = 0; turn < 100; ++turn) {
    for (std::size_t i = 0; i < kBurst; ++i) {
      burst[i] = Packet{.head = frames[i % 3].data(), .head_bytes = 64, .port = kNic};
    }
    const BurstInfo info{.domain = domain_of(kA), .port = kA, .uplink = kNic};
    switching.route(WorkerId{0}, info, burst);
    forwarder.forward(info, burst, *by_port, &switching);
  }
  EXPECT_EQ(*allocation_count() - before, 0u);
  EXPECT_GT(b.calls, 0u);
}

// The table is replaced while traffic flows: every frame is seen by the old one or the new one.
TEST(Switch, IsReplacedBetweenTwoBurstsAndTheOldOneMayGo) {
  auto worker = Worker::start({}).value();
  FakeLane a(nullptr, {.domain = domain_of(kA)}), b(nullptr, {.domain = domain_of(kB)}),
      nic(nullptr, {.domain = domain_of(kNic)});
  worker->call([&](Worker::Tables& tables) {
    for (auto [port, lane] : {std::pair{kA, &a}, {kB, &b}, {kNic, &nic}}) {
      tables.lanes.emplace_back(port, lane);
      tables.by_port[raw(port)] = lane;
    }
  });
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> sent{0};
  std::thread guest([&] {
    const auto frame = switch_frame(mac_at(kB), mac_at(kA), 0, 1);
    while (!stop.load()) {
      sent += a.send(kNic, frame) ? 1 : 0;
    }
  });
  std::uint64_t to_b = 0, to_nic = 0;
  auto drain = [&] {
    while (b.take()) {
      ++to_b;
    }
    while (nic.take()) {
      ++to_nic;
    }
  };
  std::unique_ptr<Switch> present;
  for (int turn = 0; turn < 200 || to_b == 0 || to_nic == 0; ++turn) {
    auto fresh = std::make_unique<Switch>(turn % 2 == 0 ? std::vector{member(kA), member(kB)}
                                                        : std::vector{member(kA)});
    worker->call([&](Worker::Tables& tables) { tables.switching = fresh.get(); });
    present = std::move(fresh);
    drain();
  }
  stop.store(true);
  guest.join();
  EXPECT_TRUE(wait_until([&] { return a.tx_packets.value() == sent.load(); }));
  worker->call([](Worker::Tables& tables) { tables = {}; });
  drain();
  EXPECT_EQ(to_b + to_nic + b.drop_ring_full.value() + nic.drop_ring_full.value(), sent.load());
}

}  // namespace
}  // namespace sluice
