#include "control/config/config.h"
#include "control/config/samples.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "control/config/did_you_mean.h"
#include "demux/rule.h"
#include "test/support/golden.h"

namespace sluice {
namespace {

// A config that is good, to which each case adds what is wrong.
constexpr std::string_view kGood = R"([daemon]
control = "/run/sluice/control.sock"
workers = [ { cpu = 0 } ]

[nic.eth1]
queues = [0, 1]

[nic.eth2]

[port.dns]
type = "app"
socket = "/run/sluice/dns.sock"
allow_users = ["root", 103]
queues = ["eth1:1"]

[[rule]]
nic = "eth1"
match = "ip_proto udp dst_port 53"
to = "dns"
priority = 100
)";

TEST(Config, ReadsEveryKey) {
  auto config = parse_config(R"(
[daemon]
control = "/tmp/c.sock"
control_group = "root"
log = "debug"
page_bytes = 4096
huge_pages = "never"
workers = [ { cpu = 0, idle = "spin" }, { latency_us = 10 }, { cpu = 0, idle = "awake", nap_us = 20 } ]
[nic.eth1]
queues = [0, 3]
mode = "copy"
ring = 64
[nic.eth2]
queues = "all"
[port.dns]
type = "app"
socket = "/tmp/dns.sock"
allow_users = ["root", 103]
pages = 64
ring = 128
queues = ["eth1:3"]
mac = ["52:54:00:00:00:01", "52:54:00:00:00:02"]
uplink = "eth2"
stall_timeout_ms = 500
observe = true
[port.one-mac]
type = "app"
socket = "/tmp/one.sock"
mac = "52:54:00:00:00:03"
[[rule]]
match = ""
to = "kernel"
[[rule]]
nic = "eth1"
match = "dst_port 53 ip_proto udp"
to = "dns"
priority = -1
shed = true
[[rule]]
match = "ip_proto tcp"
to = "netdev:eth3"
)",
                             "sluice.toml");
  ASSERT_TRUE(config) << config.error().message;
  const DaemonConfig& daemon = config->daemon;
  EXPECT_EQ(daemon.control, "/tmp/c.sock");
  EXPECT_EQ(daemon.control_group, "root");
  EXPECT_EQ(daemon.log, "debug");
  EXPECT_EQ(daemon.page_bytes, 4096u);
  EXPECT_EQ(daemon.huge_pages, "never");
  ASSERT_EQ(daemon.workers.size(), 3u);
  EXPECT_EQ(daemon.workers[0].cpu, 0u);
  EXPECT_EQ(daemon.workers[0].idle, IdleMode::kSpin);
  EXPECT_EQ(daemon.workers[1].cpu, std::nullopt);
  EXPECT_EQ(daemon.workers[1].latency_us, 10u);
  EXPECT_EQ(daemon.workers[2].latency_us, 20u) << "by its earlier name";
  EXPECT_EQ(daemon.workers[2].idle, IdleMode::kAwake);
  EXPECT_EQ(config->nics["eth1"], (NicConfig{"eth1", {{0, 3}}, BindMode::kCopy, 64}));
  EXPECT_EQ(config->nics["eth2"], (NicConfig{"eth2", std::nullopt, BindMode::kAuto, 4096}));
  PortConfig dns;
  dns.name = "dns";
  dns.mac = {{0x52, 0x54, 0, 0, 0, 1}, {0x52, 0x54, 0, 0, 0, 2}};
  dns.uplink = "eth2";
  AppConfig& app = dns.of_type.emplace<AppConfig>();
  app.socket = "/tmp/dns.sock";
  app.allow_users = {"root", "103"};
  app.pages = 64;
  app.ring = 128;
  app.queues = {{"eth1", 3}};
  app.stall_timeout_ms = 500;
  app.observe = true;
  EXPECT_EQ(config->ports["dns"], dns);
  EXPECT_EQ(config->ports["one-mac"].mac, (std::vector<MacAddress>{{0x52, 0x54, 0, 0, 0, 3}}));
  std::vector<RuleConfig> rules{{"", "", "kernel", 0, false},
                                {"eth1", "dst_port 53 ip_proto udp", "dns", -1, true},
                                {"", "ip_proto tcp", "netdev:eth3", 0, false}};
  EXPECT_EQ(config->rules, rules);
}

TEST(Config, OfNothingIsOneUnpinnedWorkerAndTheDefaults) {
  auto config = parse_config("", "sluice.toml");
  ASSERT_TRUE(config) << config.error().message;
  ASSERT_EQ(config->daemon.workers.size(), 1u);
  EXPECT_FALSE(config->daemon.workers[0].cpu);
  EXPECT_EQ(config->daemon.control, "/run/sluice/control.sock");
}

TEST(Config, RulesLeadFromANicAndFromAPortToAnotherNic) {
  const std::string rules =
      "[[rule]]\nnic = \"eth1\"\nmatch = \"\"\nto = \"nic:eth2\"\n"
      "[[rule]]\nport = \"dns\"\nmatch = \"\"\nto = \"nic:eth1\"\n";
  auto config = parse_config(std::string(kGood) + rules, "f");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(rules_of(*config, "eth1").back().to, "nic:eth2");
  EXPECT_EQ(rules_of_port(*config, "dns").back().to, "nic:eth1");
  EXPECT_EQ(parse_config(to_toml(*config), "f").value(), *config);
}

// What sluiced.golden calls the text in front of a case.
std::string_view text_before(std::string_view head) {
  SLUICE_CHECK(head == "alone" || head == "good" || head == "switch", "== {}", head);
  return head == "good" ? kGood : head == "switch" ? kSwitchPorts : "";
}

TEST(Config, NamesFileAndLineOfEveryErrorAndWhatWouldBeRight) {
  const auto cases = test::golden_cases(SLUICED_GOLDEN);
  EXPECT_GE(cases.size(), 128u);
  for (const test::GoldenCase& wrong : cases) {
    SCOPED_TRACE(fmt::format("{}:{}", SLUICED_GOLDEN, wrong.line));
    const std::size_t end = wrong.body.find("--\n");
    ASSERT_NE(end, std::string::npos);
    std::string sentence = wrong.body.substr(end + 3);
    sentence.pop_back();
    if (const std::size_t at = sentence.find("{last cpu}"); at != std::string::npos) {
      sentence.replace(at, 10, std::to_string(::sysconf(_SC_NPROCESSORS_CONF) - 1));
    }
    auto config = parse_config(std::string(text_before(wrong.head)) + wrong.body.substr(0, end), "f");
    ASSERT_FALSE(config);
    const std::string& said = config.error().message;
    if (sentence.ends_with("...")) {  // what toml++ says about bad syntax is its own
      EXPECT_TRUE(said.starts_with(sentence.substr(0, sentence.size() - 3))) << said;
      EXPECT_TRUE(said.ends_with("; see https://toml.io")) << said;
    } else {
      EXPECT_EQ(said, sentence);
    }
  }
}

TEST(Config, TheConfigsOfTheGoldenFileAreGoodWithoutWhatIsAdded) {
  for (const std::string_view text : {kGood, kSwitchPorts}) {
    auto config = parse_config(text, "f");
    EXPECT_TRUE(config) << config.error().message;
  }
}

constexpr const char* kGuest = "[port.p]\ntype = \"guest\"\nsocket = \"/s\"\nmac = \"52:54:00:00:00:07\"\n";

TEST(Config, ReadsEveryKeyOfGuestsAndTaps) {
  auto config = parse_config(R"(
[nic.eth1]
[port.vm0]
type = "guest"
socket = "/vm0"
role = "server"
allow_users = ["root"]
mac = ["52:54:00:00:00:01", "52:54:00:00:00:02"]
vlan = 7
uplink = "eth1"
mode = "private"
trust = true
queue_pairs = 8
[port.vm1]
type = "guest"
socket = "/vm1"
role = "client"
mac = "52:54:00:00:00:03"
[port.host0]
type = "tap"
netdev = "sluice0"
mac = "52:54:00:00:00:04"
address = ["192.0.2.1/24", "2001:db8::1/64"]
mtu = 9000
vlan = 7
mode = "vepa"
[[rule]]
port = "vm0"
match = "ip_proto tcp"
to = "host0"
)",
                             "f");
  ASSERT_TRUE(config) << config.error().message;
  PortConfig vm0;
  vm0.name = "vm0";
  vm0.mac = {{0x52, 0x54, 0, 0, 0, 1}, {0x52, 0x54, 0, 0, 0, 2}};
  vm0.uplink = "eth1";
  vm0.vlan = 7;
  GuestConfig& guest = vm0.of_type.emplace<GuestConfig>();
  guest.socket = "/vm0";
  guest.allow_users = {"root"};
  guest.mode = SwitchMode::kPrivate;
  guest.trust = true;
  guest.queue_pairs = 8;
  EXPECT_EQ(config->ports["vm0"], vm0);
  PortConfig vm1;
  vm1.name = "vm1";
  vm1.mac = {{0x52, 0x54, 0, 0, 0, 3}};
  vm1.of_type.emplace<GuestConfig>().socket = "/vm1";
  vm1.guest()->role = GuestRole::kClient;
  EXPECT_EQ(config->ports["vm1"], vm1);
  PortConfig host0;
  host0.name = "host0";
  host0.mac = {{0x52, 0x54, 0, 0, 0, 4}};
  host0.vlan = 7;
  TapConfig& tap = host0.of_type.emplace<TapConfig>();
  tap.mode = SwitchMode::kVepa;
  tap.netdev = "sluice0";
  tap.address = {"192.0.2.1/24", "2001:db8::1/64"};
  tap.mtu = 9000;
  EXPECT_EQ(config->ports["host0"], host0);
  EXPECT_EQ(uplink_of(*config, config->ports["vm1"]), "eth1");
  EXPECT_EQ(config->rules, (std::vector<RuleConfig>{{"", "ip_proto tcp", "host0", 0, false, "vm0"}}));
  EXPECT_TRUE(rules_of(*config, "eth1").empty()) << "it does not stand on NICs";
  EXPECT_EQ(rules_of_port(*config, "vm0"), config->rules);
  EXPECT_TRUE(rules_of_port(*config, "vm1").empty());
}

TEST(Config, OneAddressMayBeOnTwoSwitches) {
  std::string other_vlan = std::string(kGuest) + "uplink = \"eth1\"\nvlan = 5\n" +
                           "[port.q]\ntype = \"guest\"\nsocket = \"/q\"\nmac = \"52:54:00:00:00:07\"\n";
  EXPECT_TRUE(parse_config(std::string(kSwitchPorts) + other_vlan + "uplink = \"eth1\"\n", "f"));
  EXPECT_TRUE(parse_config(std::string(kSwitchPorts) + other_vlan + "uplink = \"eth2\"\nvlan = 5\n", "f"));
  EXPECT_FALSE(parse_config(std::string(kSwitchPorts) + other_vlan + "uplink = \"eth1\"\nvlan = 5\n", "f"));
}

TEST(Config, GuestsWithoutAnyNicAreASwitchOfTheirOwn) {
  auto config = parse_config(kGuest, "f");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(uplink_of(*config, config->ports["p"]), std::nullopt);
}

TEST(Config, PassesOnWhatIsWrongWithAMatch) {
  auto config = parse_config(std::string(kGood) + "[[rule]]\nmatch = \"dst_prt 53\"\nto = \"dns\"\n", "f");
  ASSERT_FALSE(config);
  EXPECT_EQ(config.error().message, "f:22: rule.match: " + parse_match("dst_prt 53").error().message);
}

TEST(Config, HasRoomForNoMoreRulesAndPortsThanTheTables) {
  std::string ports;
  for (int i = 0; i < 1020; ++i) {
    ports += fmt::format("[port.p{}]\ntype = \"app\"\nsocket = \"/s{}\"\n", i, i);
  }
  auto config = parse_config(std::string(kGood) + ports, "f");
  ASSERT_FALSE(config);
  EXPECT_EQ(config.error().message,
            "f:10: 1023 ports, NICs and netdev targets; the port table has room for 1022");

  Config many = parse_config(kGood, "f").value();
  many.rules.assign(kMaxRules, RuleConfig{"", "dst_port 1", "drop"});
  EXPECT_TRUE(check_config(many));
  many.rules.push_back(RuleConfig{"eth1", "dst_port 1", "drop"});
  EXPECT_EQ(check_config(many).error().message, "NIC eth1 has 65537 rules; a NIC has at most 65536");
}

TEST(Config, FileThatCannotBeReadIsNamed) {
  EXPECT_EQ(load_config("/nowhere/sluice.toml").error().message,
            "cannot read the config file /nowhere/sluice.toml: No such file or directory");
  EXPECT_EQ(load_config("/tmp").error().message, "cannot read the config file /tmp: Is a directory");
}

TEST(Config, UplinkIsTheNamedNicElseThatOfTheOwnedQueuesElseTheOnlyOne) {
  Config config = parse_config(kGood, "f").value();
  PortConfig port = config.ports["dns"];
  EXPECT_EQ(uplink_of(config, port), "eth1");
  port.uplink = "eth2";
  EXPECT_EQ(uplink_of(config, port), "eth2");
  port.uplink = "";
  port.app()->queues = {{"eth1", 0}, {"eth2", 0}};
  EXPECT_EQ(uplink_of(config, port), std::nullopt);
  port.app()->queues = {};
  EXPECT_EQ(uplink_of(config, port), std::nullopt);
  config.nics.erase("eth1");
  EXPECT_EQ(uplink_of(config, port), "eth2");
  config.nics.clear();
  EXPECT_EQ(uplink_of(config, port), std::nullopt);
}

TEST(Config, RulesWithoutANicStandOnEveryNic) {
  Config config = parse_config(std::string(kGood) + "[[rule]]\nmatch = \"\"\nto = \"drop\"\n", "f").value();
  EXPECT_EQ(rules_of(config, "eth1").size(), 2u);
  ASSERT_EQ(rules_of(config, "eth2").size(), 1u);
  EXPECT_EQ(rules_of(config, "eth2")[0].to, "drop");
}

TEST(ConfigWarnings, NameRulesThatNeverMatch) {
  Config config =
      parse_config(std::string(kGood) +
                       "[[rule]]\nnic = \"eth1\"\nmatch = \"dst_port 53 ip_proto udp\"\nto = \"drop\"\n"
                       "[[rule]]\nnic = \"eth1\"\nmatch = \"\"\nto = \"kernel\"\npriority = -1\n"
                       "[[rule]]\nnic = \"eth1\"\nmatch = \"ip_proto tcp\"\nto = \"drop\"\npriority = -2\n",
                   "f")
          .value();
  std::vector<std::string> expected{
      "rule 2 (match \"dst_port 53 ip_proto udp\" to drop) never matches on eth1: rule 1 (match \"ip_proto "
      "udp dst_port 53\" to "
      "dns) comes first",
      "rule 4 (match \"ip_proto tcp\" to drop) never matches on eth1: rule 3 (match \"\" to kernel) comes "
      "first",
      "rule 2 (match \"dst_port 53 ip_proto udp\" to drop) is no firewall: fragments, and frames with "
      "headers "
      "that are not followed, have no ports and pass it; drop by addresses or ip_proto"};
  EXPECT_EQ(config_warnings(config), expected);
}

TEST(ConfigWarnings, D5_SayWhatTheOwnerOfAQueueCanSee) {
  Config config = parse_config(std::string(kGood) +
                                   "[port.web]\ntype = \"app\"\nsocket = \"/w\"\nuplink = \"eth1\"\n"
                                   "mac = \"02:00:00:00:00:05\"\n"
                                   "[[rule]]\nmatch = \"dst_port 80\"\nto = \"web\"\n",
                               "f")
                      .value();
  std::vector<std::string> expected{
      "port dns owns eth1:1: packets for web that arrive there are dropped as drop_owned_queue; steer them "
      "to "
      "another queue (ethtool -N eth1), or let dns share the queues"};
  EXPECT_EQ(config_warnings(config), expected);
  config.rules.pop_back();
  config.ports.erase("web");
  config.ports["dns"].app()->observe = true;
  EXPECT_EQ(config_warnings(config),
            (std::vector<std::string>{"port dns owns eth1:1 with observe = true: in zero-copy mode it "
                                      "can read every packet that arrives there, also the kernel's"}));
}

TEST(ConfigWarnings, NamePortsThatNeitherReceiveNorSend) {
  Config config =
      parse_config(std::string(kGood) + "[port.web]\ntype = \"app\"\nsocket = \"/w\"\n", "f").value();
  std::vector<std::string> expected{
      "port web cannot send: there are several NICs and it names none; add uplink = \"eth1\"",
      "port web receives nothing: no rule has to = \"web\""};
  EXPECT_EQ(config_warnings(config), expected);
}

TEST(ConfigWarnings, AreSilentAboutAGoodConfig) {
  EXPECT_TRUE(config_warnings(parse_config(kGood, "f").value()).empty());
}

TEST(Words, NearestIsWithinTwoLetters) {
  constexpr std::string_view known[] = {"queues", "mode", "ring"};
  EXPECT_EQ(nearest("queue", known), "queues");
  EXPECT_EQ(nearest("mdoe", known), "mode");
  EXPECT_EQ(nearest("socket", known), "");
  EXPECT_EQ(nearest(std::string(100000, 'x'), known), "");
}

}  // namespace
}  // namespace sluice
