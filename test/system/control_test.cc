// Looking at a running daemon and changing it, while packets pass.
#include <csignal>
#include <fstream>
#include <random>

#include "test/support/ping.h"
#include "test/system/fixture.h"

namespace sluice::test {
namespace {

using nlohmann::json;

constexpr std::uint16_t kDns = 5000, kNew = 5001, kDrop = 5002, kKernel = 5003, kForward = 5004, kAway = 5005;

class ControlInTraffic : public SystemTest {
 protected:
  explicit ControlInTraffic(VethOptions links = {}) : SystemTest(std::move(links)) {}
  const std::string dns_ = nic_table() + app_port("dns") + udp_rule(kDns, "dns");

  // sluicectl's words; the status must be as expected.
  std::string sluicectl(std::vector<std::string> arguments, int status = 0) {
    arguments.insert(arguments.begin(), {SLUICECTL, "--socket", daemon().control()});
    Finished finished = run(arguments);
    EXPECT_EQ(finished.status, status) << fmt::format("{}: {}", fmt::join(arguments, " "), finished.output);
    return finished.output;
  }
};

TEST_F(ControlInTraffic, AReloadBringsRulesPortsAndNicsWithoutLosingAPacketOfAnotherPort) {
  VethPair other = make_second_wire();
  const std::string dns_config = nic_table() + app_port("dns", "uplink = \"nic0\"") + udp_rule(kDns, "dns");
  start(dns_config);
  Stream dns = stream_to("dns", kDns);
  const std::string with_port = dns_config + app_port("new") + udp_rule(kNew, "new");
  const std::string with_nic = nic_table("nic1") + dns_config + app_port("new") + udp_rule(kNew, "new");
  for (int round = 0; round < 2; ++round) {
    daemon().write_config(with_port);
    daemon().signal(SIGHUP);
    ASSERT_TRUE(eventually([&] {
      return !daemon().port("new").is_null() && daemon().show("rules").size() == 2;
    })) << daemon().log();
    daemon().write_config(with_nic);
    daemon().signal(SIGHUP);
    ASSERT_TRUE(eventually([&] { return daemon().show("nics").size() == 2; })) << daemon().log();
    daemon().write_config(dns_config);
    daemon().signal(SIGHUP);
    ASSERT_TRUE(eventually([&] {
      return daemon().port("new").is_null() && daemon().show("nics").size() == 1 &&
             daemon().show("rules").size() == 1;
    })) << daemon().log();
  }
  dns.expect_nothing_lost();
}

TEST_F(ControlInTraffic, WhatAReloadBringsWorks) {
  constexpr std::uint64_t kFrames = 5'000;
  start(dns_);
  daemon().write_config(dns_ + app_port("new") + udp_rule(kNew, "new"));
  auto done = daemon().call("reload");
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_EQ((*done)["actions"].size(), 2u) << done->dump();
  auto added = attach("new", kNew, kFrames);
  auto to_new = flow(kNew, {.count = kFrames, .allowed = added->allowed()});
  to_new->start();
  added->expect_all_once();
}

class ControlTwoQueues : public ControlInTraffic {
 protected:
  ControlTwoQueues() : ControlInTraffic({.queues = 2}) {}

  // One of many states; the port dns, which has queue 0 and its rule, is in all of them.
  std::string random_state(std::mt19937& random) {
    auto one_in = [&](unsigned n) { return random() % n == 0; };
    std::string config = nic_table() + app_port("dns", "uplink = \"nic0\"\nqueues = [\"nic0:0\"]") +
                         rule(fmt::format("ip_proto udp dst_port {}", kDns), "dns", "priority = 9");
    if (one_in(2)) {
      config += nic_table("nic1", one_in(2) ? "ring = 512" : "");
    }
    if (!one_in(4)) {
      config += app_port("new", fmt::format("uplink = \"nic0\"\npages = {}\n{}", one_in(2) ? 512 : 1024,
                                            one_in(2) ? "queues = [\"nic0:1\"]" : ""));
      config += udp_rule(kNew, "new", one_in(2) ? "shed = true" : "");
    }
    for (int i = static_cast<int>(random() % 6); i > 0; --i) {
      config += rule(fmt::format("ip_proto tcp dst_port {}", 1 + random() % 65535),
                     one_in(2) ? "drop" : "kernel", fmt::format("priority = {}", random() % 5));
    }
    return config;
  }
};

TEST_F(ControlTwoQueues,
       Model_AnySequenceOfReloadsEndsInWhatTheFileSaysAndLosesNothingOfAPortThatIsInAllOfThem) {
  constexpr int kReloads = 25;
  VethPair other = make_second_wire();
  std::mt19937 random(3);
  start(random_state(random));
  Stream dns = stream_to("dns", kDns);
  for (int i = 0; i < kReloads; ++i) {
    const std::string state = random_state(random);
    daemon().write_config(state);
    auto done = daemon().call("reload");
    ASSERT_TRUE(done) << done.error().message << "\n" << state;
    auto again = daemon().call("reload");
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_EQ((*again)["actions"], json::array()) << "a second reload of the same file has nothing to do";
    const std::uint64_t before = dns.app().received();
    ASSERT_TRUE(eventually([&] { return dns.app().received() > before; })) << daemon().log();
    if (!daemon().port("new").is_null()) {
      auto app = attach("new", kNew, 200);
      auto to_new = flow(kNew, {.count = 200, .allowed = app->allowed(1), .cpu = 1});
      to_new->start();
      app->expect_all_once();
    }
  }
  dns.expect_nothing_lost();
}

TEST_F(ControlInTraffic, ABadFileChangesNothingAndIsLoggedWithItsLine) {
  start(dns_);
  Stream dns = stream_to("dns", kDns);
  json before = daemon().show("config")["toml"];
  for (const char* bad : {"[port.dns]\ntype = \"bpp\"\n", "[nic.nic0]\nring = 3\n", "[nic.nic0\n",
                          "[[rule]]\nmatch = \"\"\nto = \"nobody\"\n"}) {
    daemon().write_config(bad);
    daemon().signal(SIGHUP);
    auto answer = daemon().call("reload");
    ASSERT_FALSE(answer);
    EXPECT_TRUE(answer.error().message.starts_with(daemon().config_path() + ":")) << answer.error().message;
    EXPECT_TRUE(eventually([&] { return daemon().log().find(answer.error().message) != std::string::npos; }))
        << daemon().log();
    EXPECT_EQ(daemon().show("config")["toml"], before);
  }
  dns.expect_nothing_lost();
}

TEST_F(ControlInTraffic, AReloadThatTheMachineRefusesSaysSoAndTheRestIsDone) {
  const std::string dns_config = nic_table() + app_port("dns", "uplink = \"nic0\"") + udp_rule(kDns, "dns");
  start(dns_config);
  Stream dns = stream_to("dns", kDns);
  daemon().write_config(dns_config + nic_table("nic7") + app_port("new", "uplink = \"nic0\"") +
                        udp_rule(kNew, "new"));
  auto answer = daemon().call("reload");
  ASSERT_FALSE(answer);
  EXPECT_NE(answer.error().message.find("nic7"), std::string::npos) << answer.error().message;
  EXPECT_FALSE(daemon().port("new").is_null());
  EXPECT_EQ(daemon().show("nics").size(), 1u);
  dns.expect_nothing_lost();
}

// Once its memory could not be made, for want of an address that it might send from.
TEST_F(ControlInTraffic, Regression_APortThatNoNicIsTheUplinkOfReceivesAndCannotSend) {
  constexpr std::uint64_t kFrames = 2'000;
  VethPair other = make_second_wire();
  start(dns_ + nic_table("nic1"));
  EXPECT_TRUE(daemon().port("dns")["uplink"].is_null());
  auto dns = attach("dns", kDns, kFrames);
  auto to_dns = flow(kDns, {.count = kFrames, .allowed = dns->allowed()});
  to_dns->start();
  dns->expect_all_once();
  EXPECT_FALSE(dns->can_send());
}

// Once it was made without, since the config that was asked for has two.
TEST_F(ControlInTraffic, Regression_APortKeepsTheOnlyNicAsItsUplinkWhenAnotherCannotBeHad) {
  start(dns_);
  daemon().write_config(dns_ + nic_table("nic7"));
  ASSERT_FALSE(daemon().call("reload"));
  auto dns = attach("dns", kDns, 0);
  EXPECT_TRUE(dns->can_send());
  EXPECT_EQ(daemon().port("dns")["uplink"], "nic0");
  Tap wire = wire_tap();
  std::vector<Frame> frames{frame_from_nic(60, 1)};
  ASSERT_TRUE(dns->send(frames));
  EXPECT_TRUE(eventually([&] { return wire.next() == frames[0]; }));
}

TEST_F(ControlInTraffic, SluicectlAddsAndRemovesRulesAndPorts) {
  constexpr std::uint64_t kFrames = 1'000;
  start(nic_table());
  EXPECT_EQ(json::parse(sluicectl({"port", "add", "new", "socket=" + daemon().path("new.sock"), "pages=512",
                                   "--json"}))["warnings"]
                .size(),
            1u)
      << "no rule leads to it";
  EXPECT_EQ(json::parse(
                sluicectl({"rule", "add", "--match", "ip_proto udp dst_port 5001", "--to", "new", "--json"})),
            json({{"warnings", json::array()}}));
  auto app = attach("new", kNew, kFrames);
  auto to_new = flow(kNew, {.count = kFrames, .allowed = app->allowed()});
  to_new->start();
  app->expect_all_once();
  json rules = json::parse(sluicectl({"show", "rules", "--json"}));
  ASSERT_EQ(rules.size(), 1u);
  EXPECT_EQ(rules[0]["packets"], kFrames);
  EXPECT_EQ(rules[0]["bytes"], kFrames * 60);
  EXPECT_NE(sluicectl({"port", "del", "new"}, 1).find("remove it first"), std::string::npos);
  json removed = json::parse(sluicectl(
      {"rule", "del", "--nic", "nic0", "--id", std::to_string(rules[0]["id"].get<int>()), "--json"}));
  EXPECT_EQ(removed["removed"]["to"], "new");
  EXPECT_EQ(json::parse(sluicectl({"port", "del", "new", "--json"})), json::object());
  EXPECT_TRUE(json::parse(sluicectl({"show", "ports", "--json"})).empty());
  EXPECT_TRUE(eventually([&] { return !app->attached(); }));
  // The packets are the kernel's again.
  KernelReceiver socket(nic_ns(), "10.77.0.1", kNew, kWindow);
  auto to_kernel = flow(kNew, {.count = kFrames, .allowed = socket.allowed()});
  to_kernel->start();
  socket.expect_all_once(kFrames);
}

bool is_counters(const json& counters) {
  return counters.is_object() && !counters.empty() &&
         std::all_of(counters.begin(), counters.end(),
                     [](const json& value) { return value.is_number_unsigned(); });
}

void expect_keys(const json& object, const std::vector<std::string>& keys) {
  ASSERT_TRUE(object.is_object()) << object.dump();
  EXPECT_EQ(object.size(), keys.size()) << object.dump();
  for (const std::string& key : keys) {
    EXPECT_TRUE(object.contains(key)) << key << " is not in " << object.dump();
  }
}

TEST_F(ControlInTraffic, EveryShowCommandAnswersInTheShapeThatIsPromised) {
  start(nic_table() + app_port("dns", "queues = [\"nic0:0\"]") + app_port("away") + udp_rule(kDns, "dns"));
  auto dns = attach("dns", kDns, 0);
  auto shown = [&](const char* what) { return json::parse(sluicectl({"show", what, "--json"})); };
  json nics = shown("nics"), queues = shown("queues"), ports = shown("ports"), rules = shown("rules"),
       pools = shown("pools"), counters = shown("counters"), config = shown("config");
  ASSERT_EQ(nics.size(), 1u);
  expect_keys(nics[0],
              {"name", "ifindex", "driver", "mac", "mtu", "link", "mode", "af_xdp", "queues", "counters"});
  EXPECT_EQ(nics[0]["name"], "nic0");
  EXPECT_EQ(nics[0]["ifindex"], pair().nic_ifindex());
  EXPECT_EQ(nics[0]["driver"], "veth");
  EXPECT_EQ(nics[0]["mac"], to_string(pair().options().nic_mac));
  EXPECT_EQ(nics[0]["mtu"], 1500);
  EXPECT_EQ(nics[0]["link"], true);
  EXPECT_EQ(nics[0]["mode"], "native");
  EXPECT_EQ(nics[0]["queues"], json::array({0}));
  EXPECT_TRUE(is_counters(nics[0]["counters"])) << nics.dump();
  ASSERT_EQ(queues.size(), 1u);
  expect_keys(queues[0], {"nic", "queue", "owner", "state", "why", "state_ms", "worker", "mode", "counters"});
  EXPECT_EQ(queues[0]["owner"], "dns");
  EXPECT_EQ(queues[0]["mode"], "copy");
  EXPECT_TRUE(is_counters(queues[0]["counters"])) << queues.dump();
  ASSERT_EQ(ports.size(), 2u);
  for (const json& port : ports) {
    expect_keys(port, {"name", "type", "id", "state", "client", "pid", "uid", "pages_held", "page_limit",
                       "uplink", "mac", "queues", "counters", "busy_us", "busy_us_by_worker", "service",
                       "descriptors", "wakes"});
    EXPECT_EQ(port["type"], "app");
    EXPECT_EQ(port["service"], "served");
    EXPECT_TRUE(is_counters(port["counters"])) << port.dump();
    bool is_dns = port["name"] == "dns";
    EXPECT_EQ(port["state"], is_dns ? "attached" : "detached");
    EXPECT_EQ(port["client"], is_dns ? json("dns-app") : json());
    EXPECT_EQ(port["pid"], is_dns ? json(::getpid()) : json());
    EXPECT_EQ(port["uid"], is_dns ? json(0) : json());
    EXPECT_EQ(port["page_limit"], 4096);
    EXPECT_EQ(port["queues"], is_dns ? json::array({"nic0:0"}) : json::array());
  }
  ASSERT_EQ(rules.size(), 1u);
  expect_keys(rules[0],
              {"id", "nic", "port", "match", "to", "priority", "shed", "implicit", "packets", "bytes"});
  ASSERT_FALSE(pools.empty());
  for (const json& pool : pools) {
    expect_keys(pool, {"name", "domain", "memory", "counters"});
    EXPECT_TRUE(pool["memory"] == "small" || pool["memory"] == "transparent huge" ||
                pool["memory"] == "reserved huge")
        << pool["memory"];
    EXPECT_TRUE(is_counters(pool["counters"])) << pool.dump();
  }
  EXPECT_TRUE(is_counters(counters));
  expect_keys(config, {"file", "toml"});
  EXPECT_EQ(config["file"], daemon().config_path());
  for (const char* what : {"nics", "queues", "ports", "rules", "pools", "counters", "config"}) {
    EXPECT_FALSE(sluicectl({"show", what}).empty()) << what;
  }
  EXPECT_EQ(json::parse(sluicectl({"version", "--json"}))["app_abi"], 2);
}

TEST_F(ControlInTraffic, WhatShowConfigPrintsStartsTheSameDaemonAgain) {
  start(dns_);
  sluicectl(
      {"rule", "add", "--match", "ip_proto tcp dst_port 80", "--to", "dns", "--priority", "7", "--shed"});
  const std::string printed = sluicectl({"show", "config"});
  json rules = daemon().show("rules");
  ASSERT_EQ(daemon().stop(), 0);
  std::ofstream(daemon().config_path()) << printed;
  auto started = daemon().start();
  ASSERT_TRUE(started) << started.error().message << printed;
  EXPECT_EQ(daemon().show("rules"), rules);
  EXPECT_EQ(sluicectl({"show", "config"}), printed);
}

TEST_F(ControlInTraffic, CountersAddUpEveryPacketThatWasSentHasOneVerdict) {
  constexpr std::uint64_t kFrames = 1'000;
  VethPair other = make_second_wire();
  start(nic_table() + app_port("dns") + app_port("away") + udp_rule(kDns, "dns") + udp_rule(kAway, "away") +
        udp_rule(kDrop, "drop") + udp_rule(kKernel, "kernel") + udp_rule(kForward, "netdev:nic1"));
  UniqueFd sink = udp_socket(nic_ns(), "10.77.0.1", kKernel),
           no_rule = udp_socket(nic_ns(), "10.77.0.1", 4999);
  auto dns = attach("dns", kDns, kFrames);
  auto verdicts = [&] {
    json counters = daemon().show("nics")[0]["counters"];
    std::uint64_t sum = 0;
    for (const char* name : {"xdp_pass", "xdp_drop", "xdp_redirect_netdev", "xdp_redirect_socket"}) {
      sum += counters.at(name).get<std::uint64_t>();
    }
    return sum;
  };
  ASSERT_EQ(verdicts(), 0u) << "something else sends";
  std::uint64_t sent = 0;
  for (std::uint16_t udp_port : {kDns, kAway, kDrop, kKernel, kForward, std::uint16_t{4999}}) {
    send_in_steps(udp_port, {.count = kFrames}, [&] { return verdicts() - sent; });
    sent += kFrames;
  }
  dns->expect_all_once();
  json nic = daemon().show("nics")[0]["counters"];
  EXPECT_EQ(nic["xdp_redirect_socket"], kFrames);
  EXPECT_EQ(nic["rx_packets"], kFrames);
  EXPECT_EQ(nic["xdp_redirect_netdev"], kFrames);
  EXPECT_EQ(nic["xdp_drop"], 2 * kFrames) << "by the rule, and for want of a reader";
  EXPECT_EQ(nic["xdp_pass"], 2 * kFrames);
  EXPECT_EQ(nic["xdp_no_rule"], kFrames);
  EXPECT_EQ(port_counter("away", "xdp_drop_no_reader"), kFrames);
  expect_port_counter("dns", "rx_packets", kFrames);
  for (const json& each : daemon().show("rules")) {
    EXPECT_EQ(each["packets"], kFrames) << each.dump();
    EXPECT_EQ(each["bytes"], kFrames * 60) << each.dump();
  }
}

}  // namespace
}  // namespace sluice::test
