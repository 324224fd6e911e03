// Guests and taps in the daemon's config: they come and go by reload and by hand, and the host's own
// device talks to the wire through the switch. Guests that carry traffic: test/guest.
#include <array>
#include <fstream>
#include <map>

#include "port/nic/nic_info.h"
#include "test/support/ping.h"
#include "test/system/fixture.h"

namespace sluice::test {
namespace {

using nlohmann::json;

constexpr std::uint16_t kDns = 5000;

std::string guest_port(const std::string& name, const std::string& mac, const std::string& more = "") {
  return fmt::format("[port.{0}]\ntype = \"guest\"\nsocket = \"@/{0}.sock\"\nmac = \"{1}\"\n{2}\n", name, mac,
                     more);
}

// The host's own device, in a subnet that the NIC has no address in.
std::string tap_port(const std::string& more = "") {
  return "[port.host0]\ntype = \"tap\"\nnetdev = \"tap0\"\nmac = \"52:54:00:00:00:02\"\n"
         "address = \"10.79.0.1/24\"\n" +
         more + "\n";
}

std::string rule_of(const std::string& port, const std::string& match, const std::string& to) {
  return fmt::format("[[rule]]\nport = \"{}\"\nmatch = \"{}\"\nto = \"{}\"\n", port, match, to);
}

class GuestsInDaemon : public SystemTest {
 protected:
  explicit GuestsInDaemon(VethOptions links = {}) : SystemTest(std::move(links)) {}
  void SetUp() override {
    SystemTest::SetUp();
    if (IsSkipped()) {
      return;
    }
    // Linux answers ARP for any address of its own on any of its devices, unless it is told not to (arp(7)).
    need(nic_ns().command("sysctl -qw net.ipv4.conf.all.arp_ignore=1").status == 0, "sysctl");
    need(wire_ns().command("ip addr add 10.79.0.2/24 dev wire0").status == 0, "ip addr");
  }
  void reload(const std::string& config) {
    daemon().write_config(config);
    auto done = daemon().call("reload");
    ASSERT_TRUE(done) << done.error().message;
  }
  std::string refusal(const std::string& method, const json& params) {
    auto done = daemon().call(method, params);
    return done ? "done" : done.error().message;
  }
  bool has_device(const std::string& name) { return nic_ns().command("ip link show " + name).status == 0; }
  json implicit_rule(const std::string& to) {
    for (const json& each : daemon().show("rules")) {
      if (each["implicit"] == true && each["to"] == to) {
        return each;
      }
    }
    return {};
  }
};

TEST_F(GuestsInDaemon, TheHostsOwnDeviceTalksToTheWireAndTheKernelKeepsTheNic) {
  start(nic_table() + tap_port());
  PingResult to_host = ping(wire_ns(), "10.79.0.1", 5);
  EXPECT_TRUE(to_host.lossless()) << to_host.output;
  PingResult to_kernel = ping(wire_ns(), "10.77.0.1", 3);
  EXPECT_TRUE(to_kernel.lossless()) << to_kernel.output;
  PingResult outwards = ping(nic_ns(), "10.79.0.2", 3);
  EXPECT_TRUE(outwards.lossless()) << outwards.output;
  EXPECT_GE(implicit_rule("host0")["packets"], 8u) << "unicast comes by the rule for its address";
  EXPECT_GE(daemon().counter("nic.nic0.broadcast_rx_packets"), 1u) << "the wire's ARP request";
  EXPECT_GE(port_counter("host0", "tx_packets"), 8u);
  EXPECT_EQ(daemon().port("host0")["state"], "up");
}

TEST_F(GuestsInDaemon, TapsAndGuestsThatNobodyUsesAreNotPolledAndWakeUpWithTheirTraffic) {
  start(nic_table() + app_port("dns") + udp_rule(kDns, "dns") + tap_port() +
        guest_port("vm0", "52:54:00:00:00:01"));
  Stream stream = stream_to("dns", kDns);  // the worker makes turns
  for (std::uint64_t round = 1; round <= 2; ++round) {
    ASSERT_TRUE(eventually([&] { return daemon().counter("worker.0.lanes_resting") == 2; }));
    EXPECT_TRUE(ping(wire_ns(), "10.79.0.1", 2).lossless());
    EXPECT_GE(daemon().counter("worker.0.lane_rouses"), round);
  }
  stream.expect_nothing_lost();
}

TEST_F(GuestsInDaemon, APortWithAVlanGetsWhatHasItsTagAndNothingElse) {
  start(nic_table() + tap_port("vlan = 7"));
  EXPECT_EQ(implicit_rule("host0")["match"], "dst_mac 52:54:00:00:00:02 vlan_id 7");
  Tap wire = wire_tap();
  Tap host(nic_ns(), need(nic_ns().in([] { return read_nic_info("tap0"); })).ifindex);
  auto send = [&](Mac destination, std::uint16_t vlan, std::uint16_t udp_port) {
    UdpFrame udp;
    udp.destination = destination;
    udp.vlan = vlan;
    udp.destination_port = udp_port;
    int error = 0;
    EXPECT_TRUE(wire.send(udp_frame(udp), error)) << error;
  };
  constexpr Mac kHost{0x52, 0x54, 0, 0, 0, 0x02}, kEverybody{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  send(kHost, 0, 7000);
  send(kHost, 8, 7001);
  send(kEverybody, 0, 7002);
  send(kEverybody, 8, 7003);
  send(kEverybody, 7, 7004);
  send(kHost, 7, 7005);
  std::map<std::uint16_t, std::uint64_t> seen;
  EXPECT_TRUE(eventually([&] {
    for (Frame frame = host.next(); !frame.empty(); frame = host.next()) {
      if (frame.size() > 37 && frame[12] == std::byte{0x08} && frame[13] == std::byte{0} &&
          frame[23] == std::byte{17}) {
        ++seen[static_cast<std::uint16_t>(std::to_integer<int>(frame[36]) << 8 |
                                          std::to_integer<int>(frame[37]))];
      }
    }
    return seen.contains(7004) && seen.contains(7005);
  }));
  EXPECT_EQ(seen, (std::map<std::uint16_t, std::uint64_t>{{7004, 1}, {7005, 1}})) << "and without its tag";
}

TEST_F(GuestsInDaemon, PortsWithoutANicAreASwitchOfTheirOwn) {
  start(
      "[port.a]\ntype = \"tap\"\nnetdev = \"tapa\"\nmac = \"52:54:00:00:00:0a\"\n"
      "[port.b]\ntype = \"tap\"\nnetdev = \"tapb\"\nmac = \"52:54:00:00:00:0b\"\n"
      "[port.c]\ntype = \"tap\"\nnetdev = \"tapc\"\nmac = \"52:54:00:00:00:0c\"\nmode = \"private\"\n");
  auto device = [&](const char* name) {
    return Tap(nic_ns(), need(nic_ns().in([&] { return read_nic_info(name); })).ifindex);
  };
  Tap a = device("tapa");
  UdpFrame udp;
  udp.source = {0x52, 0x54, 0, 0, 0, 0x0a};
  int error = 0;
  for (std::uint8_t last : std::array<std::uint8_t, 2>{0x0c, 0x0b}) {
    udp.destination = {0x52, 0x54, 0, 0, 0, last};
    EXPECT_TRUE(a.send(udp_frame(udp), error)) << error;
  }
  udp.destination = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  EXPECT_TRUE(a.send(udp_frame(udp), error)) << error;
  expect_port_counter("a", "tx_packets", 3);
  expect_port_counter("b", "rx_packets", 2);
  expect_port_counter("c", "rx_packets", 0);
  EXPECT_TRUE(daemon().port("a")["uplink"].is_null());
}

TEST_F(GuestsInDaemon, ShowGuestsNamesEachAndWhatItWaitsFor) {
  start(nic_table() + guest_port("vm0", "52:54:00:00:00:01", "queue_pairs = 2\nmode = \"private\"") +
        tap_port());
  json guests = daemon().show("guests");
  ASSERT_EQ(guests.size(), 1u) << guests.dump();
  const json& vm0 = guests[0];
  EXPECT_EQ(vm0["name"], "vm0");
  EXPECT_EQ(vm0["state"], "waiting");
  EXPECT_EQ(vm0["socket"], daemon().path("vm0.sock"));
  EXPECT_EQ(vm0["role"], "server");
  EXPECT_EQ(vm0["queue_pairs"], 2);
  EXPECT_EQ(vm0["mode"], "private");
  EXPECT_EQ(vm0["uplink"], "nic0");
  EXPECT_EQ(vm0["mac"], json::array({"52:54:00:00:00:01"}));
  EXPECT_TRUE(vm0["pid"].is_null());
  EXPECT_EQ(vm0["rings"], json::array());
  EXPECT_TRUE(vm0["counters"].contains("drop_not_running")) << vm0.dump();
  json port = daemon().port("vm0");
  EXPECT_EQ(port["type"], "guest");
  EXPECT_EQ(port["state"], "waiting");
  EXPECT_EQ(implicit_rule("vm0")["match"], "dst_mac 52:54:00:00:00:01 vlan_id 0");
}

TEST_F(GuestsInDaemon, ComeAndGoByReloadAndByHandAndAProgramsStreamLosesNothing) {
  const std::string base = nic_table() + app_port("dns") + udp_rule(kDns, "dns");
  start(base);
  Stream stream = stream_to("dns", kDns);
  for (int round = 0; round < 5; ++round) {
    reload(base + guest_port("vm0", "52:54:00:00:00:01") + tap_port());
    ASSERT_TRUE(has_device("tap0"));
    EXPECT_EQ(refusal("port.add", {{"name", "vm1"},
                                   {"type", "guest"},
                                   {"socket", daemon().path("vm1.sock")},
                                   {"mac", "52:54:00:00:00:03"}}),
              "done");
    EXPECT_EQ(daemon().show("guests").size(), 2u);
    EXPECT_TRUE(ping(wire_ns(), "10.79.0.1", 2).lossless());
    // The host's port changes, the guests are left alone.
    json before = daemon().port("vm0")["id"];
    reload(base + guest_port("vm0", "52:54:00:00:00:01") + tap_port("mtu = 1400"));
    EXPECT_EQ(daemon().port("vm0")["id"], before);
    EXPECT_EQ(daemon().show("guests").size(), 1u) << "what was added by hand goes with the reload";
    reload(base);
    EXPECT_FALSE(has_device("tap0"));
    EXPECT_EQ(daemon().show("rules").size(), 1u);
    EXPECT_EQ(refusal("port.del", {{"name", "vm0"}}), "there is no port \"vm0\"; see `sluicectl show ports`");
  }
  stream.expect_nothing_lost();
}

TEST_F(GuestsInDaemon, RulesOnWhatAPortSendsStandAheadOfItsAddresses) {
  start(nic_table() + tap_port() + rule_of("host0", "ip_proto icmp", "drop"));
  EXPECT_EQ(ping(wire_ns(), "10.79.0.1", 2).received, 0u);
  json rules = daemon().show("rules");
  auto standing = std::ranges::find_if(rules, [](const json& each) { return each["port"] == "host0"; });
  ASSERT_NE(standing, rules.end()) << rules.dump();
  EXPECT_EQ((*standing)["nic"], "");
  EXPECT_GE((*standing)["packets"], 2u) << rules.dump();
  EXPECT_EQ(refusal("rule.del", {{"port", "host0"}, {"id", (*standing)["id"]}}), "done");
  EXPECT_TRUE(ping(wire_ns(), "10.79.0.1", 3).lossless());
}

TEST_F(GuestsInDaemon, WhatTheMachineRefusesIsOneSentenceAndTheRestRuns) {
  start(nic_table() + tap_port());
  EXPECT_EQ(refusal("port.add", {{"name", "vm0"},
                                 {"type", "guest"},
                                 {"socket", daemon().path("vm0.sock")},
                                 {"mac", to_string(pair().options().nic_mac)}}),
            "add port vm0: its address 02:00:00:00:00:01 is that of its uplink nic0, whose packets are the "
            "kernel's; choose another");
  need(nic_ns().command("ip link add busy type veth peer name busy2").status == 0, "veth");
  std::string taken = refusal(
      "port.add", {{"name", "h1"}, {"type", "tap"}, {"netdev", "busy"}, {"mac", "52:54:00:00:00:09"}});
  EXPECT_TRUE(taken.starts_with("add port h1: ") && taken.find("busy") != std::string::npos) << taken;
  json rules = daemon().show("rules");
  ASSERT_EQ(rules.size(), 1u) << rules.dump();
  EXPECT_EQ(
      refusal("rule.del", {{"id", rules[0]["id"]}}),
      fmt::format("rule {} stands for an address of port host0 and goes with it", rules[0]["id"].dump()));
  EXPECT_EQ(daemon().show("ports").size(), 1u);
  EXPECT_TRUE(ping(wire_ns(), "10.79.0.1", 3).lossless());
}

TEST_F(GuestsInDaemon, WhatShowConfigPrintsStartsTheSamePortsAgain) {
  start(nic_table() + app_port("dns") + guest_port("vm0", "52:54:00:00:00:01", "trust = true") +
        tap_port("vlan = 7\nmode = \"vepa\"") + rule_of("vm0", "dst_port 53", "dns"));
  json rules = daemon().show("rules");
  std::string printed = daemon().call("show.config").value()["toml"];
  ASSERT_EQ(daemon().stop(), 0);
  EXPECT_FALSE(has_device("tap0"));
  std::ofstream(daemon().config_path()) << printed;
  auto started = daemon().start();
  ASSERT_TRUE(started) << started.error().message << printed;
  EXPECT_EQ(daemon().show("rules"), rules);
  EXPECT_EQ(daemon().call("show.config").value()["toml"], printed);
}

TEST_F(GuestsInDaemon, Crash_NothingOfThemIsLeftWhenTheDaemonIsKilled) {
  start(nic_table() + guest_port("vm0", "52:54:00:00:00:01") + tap_port());
  ASSERT_TRUE(has_device("tap0"));
  daemon().kill();
  EXPECT_TRUE(eventually([&] { return !has_device("tap0"); }));
  EXPECT_TRUE(eventually([&] { return !nic_has_xdp(); }));
  auto started = daemon().start();
  ASSERT_TRUE(started) << started.error().message;
  EXPECT_TRUE(ping(wire_ns(), "10.79.0.1", 3).lossless());
}

TEST_F(GuestsInDaemon, ThePortsWaitForANicThatGoesAndServeItAgain) {
  start(nic_table() + tap_port());
  ASSERT_TRUE(ping(wire_ns(), "10.79.0.1", 2).lossless());
  pair().remove();
  ASSERT_TRUE(eventually([&] { return daemon().show("nics")[0]["link"] == false; }));
  EXPECT_TRUE(has_device("tap0"));
  make_wire();
  need(wire_ns().command("ip addr add 10.79.0.2/24 dev wire0").status == 0, "ip addr");
  ASSERT_TRUE(eventually([&] { return daemon().show("nics")[0]["link"] == true; }));
  ASSERT_TRUE(eventually([&] { return !implicit_rule("host0").is_null(); }));
  EXPECT_TRUE(eventually([&] { return ping(wire_ns(), "10.79.0.1", 2).lossless(); }));
}

class GuestsOnTwoQueues : public GuestsInDaemon {
 protected:
  GuestsOnTwoQueues() : GuestsInDaemon({.queues = 2}) {}
};

// The second worker serves no queue that the host's port could send by: it delivers all the same, and takes
// nothing of what the host sends.
TEST_F(GuestsOnTwoQueues, WhatComesByAQueueThatAProgramOwnsReachesThePortToo) {
  constexpr std::uint64_t kFrames = 200;
  start("workers = [ {}, {} ]\n" + nic_table() + app_port("dns", "queues = [\"nic0:1\"]\nobserve = true") +
        udp_rule(kDns, "dns") + tap_port());
  auto dns = attach("dns", kDns, 0);
  UdpFrame udp;
  udp.destination = {0x52, 0x54, 0, 0, 0, 0x02};
  udp.destination_ip = "10.79.0.1";
  udp.source_ip = "10.79.0.2";
  udp.destination_port = 7000;
  LiveFramesOptions options;
  options.frame = udp_frame(udp);
  options.count = kFrames;
  options.cpu = 1;
  const std::uint64_t before = port_counter("host0", "rx_packets");
  auto flow = need(LiveFrames::create(pair(), std::move(options)));
  expect_sent(*flow, kFrames);
  EXPECT_TRUE(eventually([&] { return port_counter("host0", "rx_packets") >= before + kFrames; }))
      << daemon().port("host0").dump();
  EXPECT_EQ(port_counter("host0", "drop_no_reader"), 0u);
  PingResult answered = ping(wire_ns(), "10.79.0.1", 20);
  EXPECT_TRUE(answered.lossless()) << answered.output;
}

}  // namespace
}  // namespace sluice::test
