// `to = "nic:NAME"`: what comes by one NIC leaves by another as it is, and every page comes home, whatever
// becomes of either NIC.
#include <cstring>

#include "test/system/fixture.h"

namespace sluice::test {
namespace {

constexpr std::uint16_t kThrough = 5000, kBack = 5001, kGood = 5002;
constexpr std::uint32_t kRing = 1024, kTxRing = 2048;

class NicToNic : public SystemTest {
 protected:
  explicit NicToNic(VethOptions links = {}) : SystemTest(std::move(links)) {}

  void SetUp() override {
    SystemTest::SetUp();
    if (!IsSkipped()) {
      second_.emplace(make_second_wire());
    }
  }
  const std::string ring_ = "ring = " + std::to_string(kRing);
  const std::string both_ = nic_table("nic0", ring_) + nic_table("nic1", ring_);
  const std::string through_ = udp_rule(kThrough, "nic:nic1", "nic = \"nic0\"");

  // Sends `count` frames by nic0; each comes out of wire1 once and unchanged.
  void expect_through(std::uint64_t count, std::size_t frame_bytes = 60) {
    Tap out(wire_ns(), second_->wire_ifindex());
    std::atomic<std::uint64_t> allowed{kWindow};
    auto in = flow(kThrough, {.count = count, .allowed = &allowed, .frame_bytes = frame_bytes});
    in->start();
    Tally tally(count);
    std::uint64_t seen = 0, wrong = 0;
    const Frame expected = frame_to(kThrough, frame_bytes);
    eventually([&] {
      for (Frame frame = out.next(); !frame.empty(); frame = out.next()) {
        if (frame.size() != expected.size() || std::memcmp(frame.data(), expected.data(), 40) != 0) {
          continue;  // another one's
        }
        wrong += std::memcmp(frame.data() + 50, expected.data() + 50, expected.size() - 50) == 0 &&
                         tally.note(sequence_of(frame.data()))
                     ? 0
                     : 1;
        allowed = ++seen + kWindow;
      }
      return seen >= count;
    });
    in->stop();
    EXPECT_EQ(tally.lost(count), 0u);
    EXPECT_EQ(tally.doubled(), 0u);
    EXPECT_EQ(wrong, 0u);
  }
  std::unique_ptr<LiveFrames> endless(std::uint16_t udp_port = kThrough, std::size_t frame_bytes = 60) {
    auto live = flow(udp_port, {.frame_bytes = frame_bytes, .packets_per_second = 20'000});
    live->start();
    return live;
  }
  // Of all queues of a NIC.
  std::uint64_t queue_counter(const std::string& nic, const std::string& name) {
    std::uint64_t sum = 0;
    for (const nlohmann::json& queue : daemon().show("queues")) {
      if (queue["nic"] == nic && queue["counters"].is_object()) {
        sum += queue["counters"].value(name, std::uint64_t{0});
      }
    }
    return sum;
  }
  // Nothing is on its way: a pool has out what stands in its fill ring, which is topped up in bulks of 64.
  bool pages_are_home() {
    for (const nlohmann::json& pool : daemon().show("pools")) {
      const auto out = pool["counters"]["inflight"].get<std::uint32_t>();
      if (pool["name"].get<std::string>().ends_with("retired")) {
        return false;
      }
      if (pool["domain"] == "host" && (out > kRing || out <= kRing - 64)) {
        return false;
      }
    }
    return true;
  }
  bool is_open(const std::string& nic) {
    const nlohmann::json queues = daemon().show("queues");
    return std::ranges::any_of(
        queues, [&](const auto& queue) { return queue["nic"] == nic && queue["state"] == "open"; });
  }

  std::optional<VethPair> second_;
};

TEST_F(NicToNic, AFrameLeavesByTheOtherNicAsItIsAndItsPageComesHome) {
  constexpr std::uint64_t kFrames = 20'000;
  start(both_ + through_);
  Tap stack = nic_tap();
  expect_through(kFrames);
  expect_through(1'000, 1514);
  EXPECT_EQ(queue_counter("nic1", "tx_zero_copy"), kFrames + 1'000);
  EXPECT_EQ(queue_counter("nic1", "tx_copied"), 0u);
  EXPECT_EQ(stack.count_udp_to(kThrough), 0u);
  EXPECT_EQ(daemon().show("rules")[0]["to"], "nic:nic1");
  EXPECT_TRUE(eventually([&] { return pages_are_home(); })) << daemon().show("pools").dump(1);
}

TEST_F(NicToNic, BothWaysAtOnceEachByTheOthersPages) {
  constexpr std::uint64_t kFrames = 10'000;
  start(both_ + through_ + udp_rule(kBack, "nic:nic0", "nic = \"nic1\""));
  UdpFrame udp = second_->to_nic();
  udp.destination_port = kBack;
  LiveFramesOptions live;
  live.frame = udp_frame(udp);
  std::atomic<std::uint64_t> allowed{kWindow};
  live.allowed = &allowed;
  live.count = kFrames;
  auto back = need(LiveFrames::create(*second_, std::move(live)));
  Tap out = wire_tap();
  back->start();
  std::uint64_t seen = 0;
  std::thread reader([&] {
    eventually([&] {
      seen += out.count_udp_to(kBack);
      allowed = seen + kWindow;
      return seen >= kFrames;
    });
  });
  expect_through(kFrames);
  reader.join();
  EXPECT_EQ(seen, kFrames);
  EXPECT_EQ(queue_counter("nic0", "tx_zero_copy"), kFrames);
  EXPECT_EQ(queue_counter("nic1", "tx_zero_copy"), kFrames);
  EXPECT_TRUE(eventually([&] { return pages_are_home(); })) << daemon().show("pools").dump(1);
}

TEST_F(NicToNic, WhatAnAppSendsLeavesByTheNicThatItsRuleNamesByOneCopy) {
  constexpr std::uint64_t kFrames = 500;
  start(both_ + app_port("dns", "uplink = \"nic0\"") +
        "[[rule]]\nport = \"dns\"\nmatch = \"ip_proto udp\"\nto = \"nic:nic1\"\n" + udp_rule(kGood, "dns"));
  auto dns = attach("dns", kGood, 0);
  Tap out(wire_ns(), second_->wire_ifindex());
  std::uint64_t seen = 0;
  for (std::uint64_t i = 0; i < kFrames; ++i) {
    const Frame frame = frame_from_nic(100, i);
    ASSERT_TRUE(dns->send(std::span(&frame, 1)));
    if (i % 50 == 49) {
      EXPECT_TRUE(eventually([&] {
        for (Frame sent = out.next(); !sent.empty(); sent = out.next()) {
          seen += sent.size() == 100 ? 1 : 0;
        }
        return seen == i + 1;
      })) << seen;
    }
  }
  EXPECT_EQ(queue_counter("nic1", "tx_copied"), kFrames);
  EXPECT_EQ(queue_counter("nic1", "tx_zero_copy"), 0u);
}

TEST_F(NicToNic, FramesThatAreTooLongForTheOtherNicAreDroppedByNameUntilItsMtuIsRaised) {
  ASSERT_TRUE(nic_ns().command("ip link set nic1 mtu 1000").ok());
  ASSERT_TRUE(wire_ns().command("ip link set wire1 mtu 1500").ok());
  start(both_ + through_);
  send_in_steps(kThrough, {.count = 300, .frame_bytes = 1514},
                [&] { return queue_counter("nic1", "drop_too_long"); });
  EXPECT_EQ(queue_counter("nic1", "tx_packets"), 0u);
  expect_through(300, 1014);
  ASSERT_TRUE(nic_ns().command("ip link set nic1 mtu 1500").ok());
  ASSERT_TRUE(eventually([&] { return daemon().show("nics")[1]["mtu"] == 1500; }));
  expect_through(300, 1514);
  EXPECT_EQ(queue_counter("nic1", "drop_too_long"), 300u);
  EXPECT_TRUE(eventually([&] { return pages_are_home(); }));
}

// What it cannot send waits in its TX ring, then frames are dropped by name. The NIC that receives goes on:
// it lends no more than it can spare.
TEST_F(NicToNic, ALinkThatIsDownStopsNobodyElseAndGoesOnWhenItIsUp) {
  start(both_ + through_ + app_port("good", "uplink = \"nic0\"") + udp_rule(kGood, "good", "nic = \"nic0\""));
  ASSERT_TRUE(nic_ns().command("ip link set nic1 down").ok());
  Stream good = stream_to("good", kGood);
  send_in_steps(kThrough, {.count = kTxRing + 1'000}, [&] {
    return queue_counter("nic1", "tx_packets") + queue_counter("nic1", "drop_tx_ring_full");
  });
  EXPECT_EQ(queue_counter("nic1", "tx_packets"), kTxRing);
  EXPECT_EQ(queue_counter("nic1", "drop_tx_ring_full"), 1'000u);
  good.expect_nothing_lost();
  ASSERT_TRUE(nic_ns().command("ip link set nic1 up").ok());
  EXPECT_TRUE(eventually([&] { return pages_are_home(); })) << "also without new traffic";
  expect_through(1'000);
}

TEST_F(NicToNic, Crash_TheNicThatSendsVanishesInTrafficAndComesBack) {
  start(both_ + through_ + app_port("good", "uplink = \"nic0\"") + udp_rule(kGood, "good", "nic = \"nic0\""));
  auto good = attach("good", kGood, kAnyNumber);
  auto to_good = endless(kGood);
  for (int round = 0; round < 3; ++round) {
    auto in = endless();
    ASSERT_TRUE(eventually([&] { return queue_counter("nic1", "tx_zero_copy") > 500; })) << daemon().log();
    second_->remove();
    ASSERT_TRUE(eventually([&] { return daemon().show("nics")[1]["ifindex"].is_null(); })) << daemon().log();
    const std::uint64_t lost = daemon().counter("nic.nic0.xdp_drop_no_reader");
    EXPECT_TRUE(eventually([&] { return daemon().counter("nic.nic0.xdp_drop_no_reader") > lost + 100; }));
    const std::uint64_t before = good->received();
    EXPECT_TRUE(eventually([&] { return good->received() > before + 100; })) << "others are served";
    second_.emplace(make_second_wire());
    ASSERT_TRUE(eventually([&] { return is_open("nic1"); })) << daemon().log();
  }
  ASSERT_TRUE(to_good->stop());
  EXPECT_TRUE(eventually([&] { return pages_are_home(); })) << daemon().show("pools").dump(1);
  expect_through(1'000);
  EXPECT_TRUE(eventually([&] { return pages_are_home(); })) << daemon().show("pools").dump(1);
}

TEST_F(NicToNic, Crash_TheNicThatReceivesVanishesInTrafficAndComesBack) {
  start(both_ + through_);
  for (int round = 0; round < 3; ++round) {
    auto in = endless();
    ASSERT_TRUE(eventually([&] { return queue_counter("nic1", "tx_zero_copy") > 500; })) << daemon().log();
    pair().remove();
    ASSERT_TRUE(eventually([&] { return daemon().show("nics")[0]["ifindex"].is_null(); })) << daemon().log();
    make_wire();
    ASSERT_TRUE(eventually([&] { return is_open("nic0"); })) << daemon().log();
    const std::uint64_t before = queue_counter("nic1", "tx_zero_copy");
    auto more = endless();
    EXPECT_TRUE(eventually([&] { return queue_counter("nic1", "tx_zero_copy") > before + 500; }));
  }
  EXPECT_TRUE(eventually([&] { return pages_are_home(); })) << daemon().show("pools").dump(1);
}

// Its pages are in the TX ring of a NIC that sends nothing. It comes back all the same; the pages come home
// when that link is up, or with the daemon's end.
TEST_F(NicToNic, Crash_ANicWhosePagesAnotherOneKeepsComesBackWithoutThem) {
  start(both_ + through_);
  ASSERT_TRUE(nic_ns().command("ip link set nic1 down").ok());
  for (int round = 0; round < 2; ++round) {
    const std::uint64_t before = queue_counter("nic1", "tx_packets");
    auto in = endless();
    EXPECT_TRUE(eventually([&] { return queue_counter("nic1", "tx_packets") >= before + 100; }));
    ASSERT_TRUE(in->stop());
    pair().remove();
    ASSERT_TRUE(eventually([&] { return daemon().show("nics")[0]["ifindex"].is_null(); })) << daemon().log();
    make_wire();
    ASSERT_TRUE(eventually([&] { return is_open("nic0"); })) << daemon().log();
    if (round == 0) {
      ASSERT_TRUE(nic_ns().command("ip link set nic1 up").ok());
      EXPECT_TRUE(eventually([&] { return pages_are_home(); })) << daemon().show("pools").dump(1);
      expect_through(1'000);
      ASSERT_TRUE(nic_ns().command("ip link set nic1 down").ok());
    }
  }
  EXPECT_EQ(daemon().stop(), 0);
  EXPECT_EQ(daemon().log().find("at the end"), std::string::npos) << daemon().log();
}

TEST_F(NicToNic, TheDaemonEndsInFullTrafficWithEveryPageAtHome) {
  start(both_ + through_);
  auto in = endless();
  ASSERT_TRUE(eventually([&] { return queue_counter("nic1", "tx_zero_copy") > 1'000; }));
  EXPECT_EQ(daemon().stop(), 0);  // a pool that goes CHECKs that its pages are home
  EXPECT_EQ(daemon().log().find("at the end"), std::string::npos) << daemon().log();
}

TEST_F(NicToNic, ARuleIsTakenAwayWithItsNicAndIsNotReadWithoutIt) {
  start(both_ + through_);
  daemon().write_config(nic_table("nic0", ring_));
  ASSERT_TRUE(daemon().call("reload"));
  EXPECT_TRUE(daemon().show("rules").empty());
  daemon().write_config(nic_table("nic0", ring_) + through_);
  auto refused = daemon().call("reload");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("NIC nic1 is not configured"), std::string::npos)
      << refused.error().message;
  daemon().write_config(both_ + through_);
  ASSERT_TRUE(daemon().call("reload"));
  expect_through(500);
}

class NicToNicTwoQueues : public NicToNic {
 protected:
  NicToNicTwoQueues() : NicToNic({.queues = 2}) {}
};

// A worker sends by its own queues: with fewer of them than workers, what the others take has no way.
TEST_F(NicToNicTwoQueues, WhatAWorkerWithoutAQueueOfTheOtherNicTakesIsDroppedByNameWithAWarning) {
  start("workers = [ {}, {} ]\n" + both_ + through_);
  EXPECT_NE(daemon().log().find("nic nic0: what workers 1 take for nic:nic1 is dropped as drop_no_reader"),
            std::string::npos)
      << daemon().log();
  auto dropped = [&] { return daemon().counter("worker.1.drop_no_reader"); };
  send_in_steps(kThrough, {.count = 500, .cpu = 1}, dropped);
  EXPECT_EQ(queue_counter("nic1", "tx_packets"), 0u);
  std::atomic<std::uint64_t> allowed{kWindow};
  auto by_the_first = flow(kThrough, {.count = kWindow, .allowed = &allowed, .cpu = 0});
  expect_sent(*by_the_first, kWindow);
  EXPECT_TRUE(eventually([&] { return queue_counter("nic1", "tx_zero_copy") == kWindow; }));
}

}  // namespace
}  // namespace sluice::test
