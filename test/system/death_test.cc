// When things die: a program, the daemon, the NIC. What is left goes on, and what comes back finds its place.
#include <csignal>
#include <filesystem>
#include <random>

#include "test/support/ping.h"
#include "test/system/fixture.h"

namespace sluice::test {
namespace {

constexpr std::uint16_t kGood = 5000, kVictim = 5001;
constexpr std::uint64_t kAnyNumber = 10'000'000;

std::size_t open_descriptors(pid_t pid) {
  std::filesystem::directory_iterator fds(fmt::format("/proc/{}/fd", pid));
  return static_cast<std::size_t>(std::distance(fds, {}));
}

class Crash_System : public SystemTest {
 protected:
  Crash_System() : SystemTest({.queues = 2}) {}
  const std::string shared_ = nic_table() + app_port("good") + app_port("victim", "attach_rate = 0") +
                              udp_rule(kGood, "good") + udp_rule(kVictim, "victim");
  // The victim reads its queue without a copy.
  const std::string owned_ = nic_table() + app_port("good") +
                             app_port("victim", "queues = [\"nic0:1\"]\nattach_rate = 0") +
                             udp_rule(kGood, "good") + udp_rule(kVictim, "victim");

  // A program is killed at some moment of its life, `times` times, in the middle of its packets. Another
  // one's packets, by the other queue, all come.
  void kill_programs(const std::string& config, int times) {
    std::mt19937 random(7);
    start(config);
    constexpr std::uint64_t kFrames = 30'000;
    auto good = attach("good", kGood, kFrames);
    auto to_good = flow(kGood, {.count = kFrames, .allowed = good->allowed(0), .cpu = 0});
    auto to_victim = flow(kVictim, {.cpu = 1, .packets_per_second = 20'000});
    to_good->start();
    to_victim->start();
    for (int round = 0; round < times; ++round) {
      auto victim = Process::start({RECEIVER, daemon().path("victim.sock")});
      ASSERT_TRUE(victim) << victim.error().message;
      ASSERT_TRUE(eventually([&] { return daemon().port("victim")["pid"] == victim->pid(); }))
          << "round " << round << ": " << daemon().log();
      std::uint64_t until = port_counter("victim", "rx_packets") + random() % 1000;
      ASSERT_TRUE(eventually([&] { return port_counter("victim", "rx_packets") >= until; }));
      victim->signal(SIGKILL);
    }
    ASSERT_TRUE(eventually([&] { return daemon().port("victim")["state"] == "detached"; }));
    ASSERT_TRUE(to_victim->stop());
    EXPECT_EQ(daemon().port("victim")["pages_held"], 0);
    EXPECT_EQ(port_counter("victim", "attaches"), static_cast<std::uint64_t>(times));
    for (const char* fault :
         {"fault_return_double", "fault_return_forged", "fault_return_foreign", "fault_ring_index"}) {
      EXPECT_EQ(port_counter("victim", fault), 0u) << fault;
    }
    good->expect_all_once();
    constexpr std::uint64_t kAfter = 2'000;
    auto next = attach("victim", kVictim, kAfter);
    auto to_next = flow(kVictim, {.count = kAfter, .allowed = next->allowed(1), .cpu = 1});
    to_next->start();
    next->expect_all_once();
  }

  std::size_t open_queues() {
    const nlohmann::json queues = daemon().show("queues");
    return static_cast<std::size_t>(
        std::ranges::count_if(queues, [](const auto& queue) { return queue["state"] == "open"; }));
  }
  // Packets flow to the program.
  void expect_traffic(App& app, const char* when) {
    std::uint64_t before = app.received();
    EXPECT_TRUE(eventually([&] { return app.received() >= before + 500; })) << when << "\n" << daemon().log();
  }
  std::unique_ptr<LiveFrames> endless(std::uint16_t udp_port, std::uint32_t cpu, std::uint64_t first = 0) {
    auto live = flow(udp_port, {.cpu = cpu, .first = first, .packets_per_second = 10'000});
    live->start();
    return live;
  }
};

TEST_F(Crash_System, ProgramsKilledInTrafficTakeNothingWithThemAndDisturbNobody) {
  kill_programs(shared_, 50);
}

TEST_F(Crash_System, ProgramsKilledWhileTheKernelWritesIntoTheirPagesDoNeither) {
  kill_programs(owned_, 15);
}

TEST_F(Crash_System, ADaemonKilledLeavesAPlainNicAndItsProgramsComeBackToTheNextOne) {
  start(owned_);
  auto good = attach("good", kGood, kAnyNumber), victim = attach("victim", kVictim, kAnyNumber);
  auto ping = Ping::start(wire_ns(), "10.77.0.1");
  ASSERT_TRUE(ping) << ping.error().message;
  auto to_good = endless(kGood, 0), to_victim = endless(kVictim, 1);
  for (std::uint64_t round = 0; round < 3; ++round) {
    expect_traffic(*good, "before the kill");
    expect_traffic(*victim, "before the kill");
    daemon().kill();
    EXPECT_TRUE(eventually([&] { return !nic_has_xdp(); }));
    EXPECT_TRUE(eventually([&] { return !good->attached() && !victim->attached(); }));
    auto restarted = daemon().start();
    ASSERT_TRUE(restarted) << restarted.error().message;
    EXPECT_TRUE(eventually([&] { return good->attaches() == round + 2 && victim->attaches() == round + 2; }));
    expect_traffic(*good, "after the restart");
    expect_traffic(*victim, "after the restart");
  }
  EXPECT_EQ(good->wrong() + victim->wrong(), 0u);
  PingResult pinged = ping->stop();
  EXPECT_TRUE(pinged.lossless()) << pinged.output;
}

TEST_F(Crash_System, ADaemonThatIsAskedToEndInTrafficEndsCleanlyAndRemovesItsSockets) {
  start(owned_);
  auto good = attach("good", kGood, kAnyNumber), victim = attach("victim", kVictim, kAnyNumber);
  auto to_good = endless(kGood, 0), to_victim = endless(kVictim, 1);
  expect_traffic(*good, "at first");
  expect_traffic(*victim, "at first");
  EXPECT_EQ(daemon().stop(), 0) << daemon().log();
  EXPECT_FALSE(nic_has_xdp());
  for (const char* socket : {"control.sock", "good.sock", "victim.sock"}) {
    EXPECT_FALSE(std::filesystem::exists(daemon().path(socket))) << socket;
  }
  EXPECT_TRUE(eventually([&] { return !good->attached() && !victim->attached(); }));
}

TEST_F(Crash_System, ANicThatVanishesInTrafficAndComesBackServesItsProgramsAgain) {
  start(owned_);
  auto good = attach("good", kGood, kAnyNumber), victim = attach("victim", kVictim, kAnyNumber);
  std::size_t fds = 0;
  for (int round = 0; round < 4; ++round) {
    {
      auto to_good = endless(kGood, 0), to_victim = endless(kVictim, 1);
      expect_traffic(*good, "before the NIC goes");
      expect_traffic(*victim, "before the NIC goes");
      pair().remove();
    }
    ASSERT_TRUE(eventually([&] { return daemon().show("nics")[0]["ifindex"].is_null(); })) << daemon().log();
    EXPECT_TRUE(daemon().show("queues").empty());
    EXPECT_EQ(daemon().port("good")["state"], "attached");
    make_wire();
    ASSERT_TRUE(eventually([&] { return open_queues() == 2; })) << daemon().log();
    // A worker that sleeps has one descriptor more than one that naps.
    for (int look = 0; round == 0 && look < 50; ++look) {
      daemon().show("queues");
      fds = std::max(fds, open_descriptors(daemon().pid()));
    }
    EXPECT_TRUE(eventually([&] { return open_descriptors(daemon().pid()) <= fds; })) << "round " << round;
    auto to_good = endless(kGood, 0), to_victim = endless(kVictim, 1);
    expect_traffic(*good, "after the NIC has come back");
    expect_traffic(*victim, "after the NIC has come back");
  }
  EXPECT_EQ(good->attaches(), 1u) << "no session ended";
  EXPECT_EQ(victim->attaches(), 1u) << "no session ended";
  EXPECT_EQ(good->wrong() + victim->wrong(), 0u);
  EXPECT_GT(port_counter("victim", "zero_copy"), 3000u);
  EXPECT_TRUE(ping(wire_ns(), "10.77.0.1").lossless());
}

// The flapping NIC's queues are closed and opened over and over; the other NIC's program, on the same
// workers, loses nothing, and control answers all the while.
TEST_F(Crash_System, ANicThatFlapsUnderAnAppStopsNobodyElse) {
  VethPair other = make_second_wire();
  start(nic_table() + nic_table("nic1") + app_port("victim", "uplink = \"nic0\"\nqueues = [\"nic0:1\"]") +
        app_port("calm", "uplink = \"nic1\"") + udp_rule(kVictim, "victim", "nic = \"nic0\"") +
        udp_rule(kGood, "calm", "nic = \"nic1\""));
  UdpFrame to_calm = other.to_nic();
  to_calm.destination_port = kGood;
  App::Options options;
  options.socket = daemon().path("calm.sock");
  options.expected = udp_frame(to_calm);
  options.sequences = kAnyNumber;
  options.name = "calm-app";
  auto calm = need(App::attach(std::move(options)));
  LiveFramesOptions live;
  live.frame = udp_frame(to_calm);
  live.allowed = calm->allowed(0);
  live.packets_per_second = 10'000;
  auto flow_to_calm = need(LiveFrames::create(other, std::move(live)));
  flow_to_calm->start();
  auto victim = attach("victim", kVictim, kAnyNumber);
  std::uint64_t answers = 0;
  for (int round = 0; round < 6; ++round) {
    const std::uint64_t before = calm->received();
    {
      auto to_victim = endless(kVictim, 1);
      expect_traffic(*victim, "before the NIC goes");
      pair().remove();
    }
    ASSERT_TRUE(eventually([&] {
      ++answers;
      return daemon().show("nics")[0]["ifindex"].is_null();
    })) << daemon().log();
    make_wire();
    ASSERT_TRUE(eventually([&] {
      ++answers;
      return open_queues() == 3;
    })) << daemon().log();
    EXPECT_TRUE(eventually([&] { return calm->received() > before + 100; }));
  }
  EXPECT_GE(answers, 12u);
  auto sent = flow_to_calm->stop();
  ASSERT_TRUE(sent) << sent.error().message;
  calm->expect_all_once(*sent);
  EXPECT_EQ(victim->attaches() + calm->attaches(), 2u) << "no session ended";
  EXPECT_EQ(victim->wrong(), 0u);
  auto to_victim = endless(kVictim, 1);
  expect_traffic(*victim, "at the end");
}

TEST_F(Crash_System, ANicThatIsRenamedIsGoneUntilItHasItsNameAgain) {
  start(shared_);
  auto good = attach("good", kGood, kAnyNumber);
  Finished renamed =
      nic_ns().command("ip link set nic0 down; ip link set nic0 name other; ip link set other up");
  ASSERT_TRUE(renamed.ok()) << renamed.output;
  ASSERT_TRUE(eventually([&] { return daemon().show("queues").empty(); })) << daemon().log();
  EXPECT_EQ(nic_ns().command("ip -d link show other").output.find("prog/xdp"), std::string::npos);
  renamed = nic_ns().command("ip link set other down; ip link set other name nic0; ip link set nic0 up");
  ASSERT_TRUE(renamed.ok()) << renamed.output;
  ASSERT_TRUE(eventually([&] { return open_queues() == 2; })) << daemon().log();
  auto to_good = endless(kGood, 0);
  expect_traffic(*good, "with its name again");
}

TEST_F(Crash_System, ANetdevThatARuleLeadsToMayVanishAndComeBack) {
  constexpr std::uint64_t kFrames = 1'000;
  auto other = std::optional(make_second_wire());
  start(nic_table() + udp_rule(kGood, "netdev:nic1"));
  auto verdicts = [&](const char* name) { return daemon().counter(std::string("nic.nic0.xdp_") + name); };
  std::uint64_t forwarded_before = 0;
  for (int round = 0; round < 3; ++round) {
    Tap out(wire_ns(), other->wire_ifindex());
    std::uint64_t seen = 0;
    auto arrived = [&] { return seen += out.count_udp_to(kGood); };
    // The daemon hears of the new device when the kernel tells it.
    ASSERT_TRUE(eventually([&] {
      expect_sent(*flow(kGood, {.count = 1, .cpu = 0}), 1);
      return arrived() > 0;
    })) << daemon().log();
    const std::uint64_t forwarded = verdicts("redirect_netdev");
    ASSERT_TRUE(eventually([&] { return arrived() == forwarded - forwarded_before; }));
    seen = 0;
    send_in_steps(kGood, {.count = kFrames, .cpu = 0}, arrived);
    EXPECT_EQ(verdicts("redirect_netdev") - forwarded, kFrames);
    forwarded_before = forwarded + kFrames;
    other->remove();
    ASSERT_TRUE(eventually([&] { return !nic_ns().command("ip link show nic1").ok(); }));
    const std::uint64_t dropped = verdicts("drop");
    send_in_steps(kGood, {.count = kFrames, .cpu = 0}, [&] { return verdicts("drop") - dropped; });
    other = make_second_wire();
  }
}

TEST_F(Crash_System, AProgramMayComeAndGoWhileItsNicIsAway) {
  start(owned_);
  pair().remove();
  ASSERT_TRUE(eventually([&] { return daemon().show("nics")[0]["ifindex"].is_null(); })) << daemon().log();
  for (int round = 0; round < 3; ++round) {
    attach("good", kGood, 0);
    attach("victim", kVictim, 0);
  }
  auto victim = attach("victim", kVictim, kAnyNumber);
  make_wire();
  auto to_victim = endless(kVictim, 1);
  expect_traffic(*victim, "after the NIC has come back");
}

TEST_F(Crash_System, LinkDownAndUpAndAnotherMtuDoNotEndTheTraffic) {
  start(owned_);
  auto good = attach("good", kGood, kAnyNumber), victim = attach("victim", kVictim, kAnyNumber);
  auto to_good = endless(kGood, 0), to_victim = endless(kVictim, 1);
  for (const char* change : {"ip link set nic0 down; ip link set nic0 up", "ip link set nic0 mtu 1400",
                             "ip link set nic0 down; ip link set nic0 mtu 1500 up"}) {
    expect_traffic(*good, "before");
    Finished changed = nic_ns().command(change);
    ASSERT_TRUE(changed.ok()) << changed.output;
    expect_traffic(*good, change);
    expect_traffic(*victim, change);
  }
  EXPECT_TRUE(eventually([&] { return daemon().show("nics")[0]["mtu"] == 1500; }));
  EXPECT_EQ(good->attaches() + victim->attaches(), 2u);
}

}  // namespace
}  // namespace sluice::test
