#include "control/config/config.h"
#include "control/config/samples.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "control/config/did_you_mean.h"
#include "demux/rule.h"

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

struct WrongCase {
  std::string text;  // all of the file, or with `append` what comes behind kGood (whose last line is 20)
  std::string message;
  bool append = true;
};

// One line per error that a config can have, with the whole of what the operator reads.
const WrongCase kWrong[] = {
    {"[deamon]\n", "f:21: deamon is not a section that Sluice knows; did you mean \"daemon\"?"},
    {"[bogus]\n", "f:21: bogus is not a section that Sluice knows; known sections: daemon, nic, port, rule"},
    {"= 3\n", "f:1: not TOML: ", false},
    {"[daemon\n", "f:1: not TOML: ", false},
    {"[nic.eth1]\n", "f:21: not TOML: "},  // a second section of the same name
    {"daemon = 3\n", "f:1: daemon is an integer; it must be a section, [daemon]", false},
    {"nic = 3\n", "f:1: nic is an integer; write a section for each, for example [nic.eth1]", false},
    {"nic.eth1 = 3\n", "f:1: nic.eth1 is an integer; it must be a section, [nic.eth1]", false},
    {"rule = 3\n", "f:1: rule is an integer; write [[rule]] in front of each rule", false},
    {"rule = [1]\n", "f:1: rule is an array; write [[rule]] in front of each rule", false},

    {"[daemon]\ncontrl = 1\n", "f:2: daemon.contrl is not a key that Sluice knows; did you mean \"control\"?",
     false},
    {"[daemon]\nx = 1\n",
     "f:2: daemon.x is not a key that Sluice knows; known keys: control, control_group, log, page_bytes, "
     "huge_pages, guest_memory, workers",
     false},
    {"[daemon]\ncontrol = 1\n", "f:2: daemon.control is an integer; it must be a string", false},
    {"[daemon]\ncontrol = \"run/c\"\n",
     "f:2: daemon.control is \"run/c\"; it must be an absolute path, for example \"/run/sluice/name.sock\"",
     false},
    {"[daemon]\ncontrol = \"/" + std::string(120, 'x') + "\"\n",
     "f:2: daemon.control has 121 bytes; a Unix socket's path has at most 107", false},
    {"[daemon]\ncontrol = \"/a\\u0000b\"\n", "f:2: daemon.control holds a zero byte; it must be a path",
     false},
    {"[daemon]\ncontrol_group = \"no such\"\n",
     "f:2: daemon.control_group: there is no group \"no such\"; create it or leave the key out", false},
    {"[daemon]\nlog = \"loud\"\n",
     "f:2: daemon.log is \"loud\"; it must be one of trace, debug, info, warning, error, off", false},
    {"[daemon]\npage_bytes = 3000\n",
     "f:2: daemon.page_bytes is 3000; it must be a power of two from 2048 to 4096", false},
    {"[daemon]\nhuge_pages = true\n", "f:2: daemon.huge_pages is a boolean; it must be a string", false},
    {"[daemon]\nhuge_pages = \"yes\"\n",
     "f:2: daemon.huge_pages is \"yes\"; it must be one of auto, never, required", false},
    {"[daemon]\nworkers = 2\n",
     "f:2: daemon.workers is an integer; it must be an array of tables, one per worker, for example [ { cpu "
     "= 0 } ]",
     false},
    {"[daemon]\nworkers = []\n",
     "f:2: daemon.workers has 0 workers; it must have 1 to 64, for example [ { cpu = 0 } ]", false},
    {"[daemon]\nworkers = [{},\n 3]\n",
     "f:3: daemon.workers[1] is an integer; it must be a table, for example { cpu = 0 }", false},
    {"[daemon]\nworkers = [{cpu = \"0\"}]\n",
     fmt::format("f:2: daemon.workers[0].cpu is a string; it must be a number from 0 to {}",
                 ::sysconf(_SC_NPROCESSORS_CONF) - 1),
     false},
    {"[daemon]\nworkers = [{cpu = 99999}]\n",
     fmt::format("f:2: daemon.workers[0].cpu is 99999; it must be a number from 0 to {}",
                 ::sysconf(_SC_NPROCESSORS_CONF) - 1),
     false},
    {"[daemon]\nworkers = [{cpus = 1}]\n",
     "f:2: daemon.workers[0].cpus is not a key that Sluice knows; did you mean \"cpu\"?", false},
    {"[daemon]\nworkers = [{idle = \"nap\"}]\n",
     "f:2: daemon.workers[0].idle is \"nap\"; it must be one of adaptive, awake, spin", false},
    {"[daemon]\nworkers = [{idle = \"awake\"}]\n",
     "f:2: daemon.workers[0].idle is \"awake\", which needs a `cpu` to keep awake", false},
    {"[daemon]\nworkers = [{latency_us = 9, nap_us = 9}]\n",
     "f:2: daemon.workers[0].nap_us is the earlier name of `latency_us`; leave it out", false},
    {"[daemon]\nworkers = [{latency_us = 0}]\n",
     "f:2: daemon.workers[0].latency_us is 0; it must be a number from 1 to 1000", false},

    {"[nic.\"a/b\"]\n", "f:21: nic.\"a/b\" is not the name of a network device; see `ip link`"},
    {"[nic.e]\nring = 100\n", "f:22: nic.e.ring is 100; it must be a power of two from 64 to 32768"},
    {"[nic.e]\nring = 1.5\n", "f:22: nic.e.ring is a fraction; it must be a power of two from 64 to 32768"},
    {"[nic.e]\nmode = \"zero\"\n", "f:22: nic.e.mode is \"zero\"; it must be one of auto, zerocopy, copy"},
    {"[nic.e]\nqueue = [1]\n", "f:22: nic.e.queue is not a key that Sluice knows; did you mean \"queues\"?"},
    {"[nic.e]\nqueues = \"some\"\n",
     "f:22: nic.e.queues is \"some\"; it must be \"all\" or an array of queue numbers, for example [0, 1]"},
    {"[nic.e]\nqueues = 1\n",
     "f:22: nic.e.queues is an integer; it must be \"all\" or an array of queue numbers, for example [0, 1]"},
    {"[nic.e]\nqueues = []\n",
     "f:22: nic.e.queues is empty; list the queues, for example [0, 1], or write \"all\""},
    {"[nic.e]\nqueues = [0,\n 65536]\n",
     "f:23: nic.e.queues[1] is 65536; it must be a number from 0 to 65535"},
    {"[nic.e]\nqueues = [0,\n 2,\n 2]\n", "f:24: nic.e.queues names queue 2 twice; once is enough"},

    {"[port.\"a.b\"]\ntype = \"app\"\nsocket = \"/s\"\n",
     "f:21: port.\"a.b\" is not a port's name; it must be 1 to 32 letters, digits, - or _"},
    {"[port.drop]\ntype = \"app\"\nsocket = \"/s\"\n",
     "f:21: port.drop takes the name of a port that every NIC has; choose another name"},
    {"[port.p]\nsocket = \"/s\"\n", "f:21: port.p has no type; write for example type = \"app\""},
    {"[port.p]\ntype = \"app\"\n",
     "f:21: port.p has no socket; write for example socket = \"/run/sluice/p.sock\""},
    {"[port.p]\ntype = \"vm\"\nsocket = \"/s\"\n",
     "f:22: port.p.type \"vm\" is not a type that Sluice knows; write type = \"app\", \"guest\" or "
     "\"tap\""},
    {"[port.p]\ntype = 3\n", "f:22: port.p.type is an integer; it must be a string"},
    {"[port.p]\ntype = \"app\"\nsocket = \"s\"\n",
     "f:23: port.p.socket is \"s\"; it must be an absolute path, for example \"/run/sluice/name.sock\""},
    {"[port.p]\ntype = \"app\"\nsocket = \"/run/sluice/dns.sock\"\n",
     "f:23: port.p.socket is \"/run/sluice/dns.sock\", as port.dns.socket is; each needs a path of its own"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/run/sluice/control.sock\"\n",
     "f:23: port.p.socket is \"/run/sluice/control.sock\", as daemon.control is; each needs a path of its "
     "own"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nallow_users = \"dns\"\n",
     "f:24: port.p.allow_users is a string; it must be an array of user names or numbers"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nallow_users = [\n\"root\",\n\"no such\"]\n",
     "f:26: port.p.allow_users: there is no user \"no such\"; create it or write a number"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nallow_users = [-1]\n",
     "f:24: port.p.allow_users: there is no user \"-1\"; create it or write a number"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nallow_users = [true]\n",
     "f:24: port.p.allow_users[0] is a boolean; it must be a string"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\npages = 63\n",
     "f:24: port.p.pages is 63; it must be a number from 64 to 1048576"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nring = 65\n",
     "f:24: port.p.ring is 65; it must be 0 or a power of two from 64 to 65536"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nstall_timeout_ms = -1\n",
     "f:24: port.p.stall_timeout_ms is -1; it must be a number from 0 to 3600000"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nstall_timeout = 1\n",
     "f:24: port.p.stall_timeout is not a key that Sluice knows; known keys: type, socket, allow_users, "
     "allow_groups, allow_cgroup, mac, vlan, uplink, trust, source_ip, frame_rate, broadcast_rate, "
     "stall_budget_us, stall_window_ms, pages, ring, queues, attach_rate, stall_timeout_ms, observe"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nobserve = \"yes\"\n",
     "f:24: port.p.observe is a string; it must be true or false"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nmac = \"52:54:0:0:0:1\"\n",
     "f:24: port.p.mac is \"52:54:0:0:0:1\"; it must be a MAC address, for example \"52:54:00:00:00:01\""},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nmac = [\"52:54:00:00:00:01\",\n3]\n",
     "f:25: port.p.mac[1] is an integer; it must be a string"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nmac = \"01:00:5e:00:00:01\"\n",
     "f:24: port.p.mac: 01:00:5e:00:00:01 is a group address and cannot be a source; the first byte must be "
     "even"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nuplink = \"eth9\"\n",
     "f:24: port.p.uplink: NIC eth9 is not configured; add a section [nic.eth9]; did you mean \"eth1\"?"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nqueues = \"eth1:0\"\n",
     "f:24: port.p.queues is a string; it must be an array of NIC queues, for example [\"eth1:1\"]"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nqueues = [\"eth1\"]\n",
     "f:24: port.p.queues[0] is \"eth1\"; it must be NIC:QUEUE, for example \"eth1:1\""},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nqueues = [\"eth1:65536\"]\n",
     "f:24: port.p.queues[0] is \"eth1:65536\"; it must be NIC:QUEUE, for example \"eth1:1\""},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nqueues = [\"eth9:0\"]\n",
     "f:24: port.p.queues: NIC eth9 is not configured; add a section [nic.eth9]"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nqueues = [\"eth1:5\"]\n",
     "f:24: port.p.queues: queue 5 is not among nic.eth1.queues; add it there or take one of 0, 1"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nqueues = [\"eth1:0\",\n\"eth1:0\"]\n",
     "f:25: port.p.queues names eth1:0 twice; once is enough"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nqueues = [\"eth2:7\",\n\"eth1:1\"]\n",
     "f:25: port.p.queues: eth1:1 is owned by port dns already; a queue has one owner"},

    {"[[rule]]\nto = \"dns\"\n",
     "f:21: rule has no match; write for example match = \"ip_proto udp dst_port 53\""},
    {"[[rule]]\nmatch = \"\"\n", "f:21: rule has no to; write for example to = \"kernel\""},
    {"[[rule]]\nmatch = 53\nto = \"dns\"\n", "f:22: rule.match is an integer; it must be a string"},
    {"[[rule]]\nmatch = \"\"\nto = \"dms\"\n",
     "f:23: rule.to: there is no port \"dms\"; did you mean \"dns\"?"},
    {"[[rule]]\nmatch = \"\"\nto = \"webserver\"\n",
     "f:23: rule.to: there is no port \"webserver\"; known targets: dns, kernel, drop, netdev:NAME"},
    {"[[rule]]\nmatch = \"\"\nto = \"eth2\"\n",
     "f:23: rule.to: \"eth2\" is a NIC, not a port; write \"netdev:eth2\""},
    {"[[rule]]\nmatch = \"\"\nto = \"netdev:\"\n",
     "f:23: rule.to: \"netdev:\" names no network device; write for example \"netdev:eth2\""},
    {"[[rule]]\nnic = \"eth1\"\nmatch = \"\"\nto = \"netdev:eth1\"\n",
     "f:24: rule.to: netdev:eth1 would send packets back to the NIC they came from; name another NIC"},
    {"[[rule]]\nnic = \"eth\"\nmatch = \"\"\nto = \"dns\"\n",
     "f:22: rule.nic: NIC eth is not configured; add a section [nic.eth]; did you mean \"eth1\"?"},
    {"[[rule]]\nmatch = \"\"\nto = \"kernel\"\nshed = true\n",
     "f:24: rule.shed: kernel has no pages to run out of; shed is for rules to a port of type \"app\""},
    {"[[rule]]\nmatch = \"\"\nto = \"dns\"\nshed = 1\n",
     "f:24: rule.shed is an integer; it must be true or false"},
    {"[[rule]]\nmatch = \"\"\nto = \"dns\"\npriority = 2147483648\n",
     "f:24: rule.priority is 2147483648; it must be a number from -2147483648 to 2147483647"},
    {"[[rule]]\nmatch = \"\"\nto = \"dns\"\nprio = 1\n",
     "f:24: rule.prio is not a key that Sluice knows; known keys: nic, port, match, to, priority, shed"},
};

TEST(Config, NamesFileAndLineOfEveryErrorAndWhatWouldBeRight) {
  for (const WrongCase& wrong : kWrong) {
    std::string text = wrong.append ? std::string(kGood) + wrong.text : wrong.text;
    auto config = parse_config(text, "f");
    ASSERT_FALSE(config) << wrong.text;
    // What toml++ says about bad syntax is its own; the place and ours around it are not.
    if (wrong.message.ends_with("not TOML: ")) {
      EXPECT_TRUE(config.error().message.starts_with(wrong.message)) << config.error().message;
      EXPECT_TRUE(config.error().message.ends_with("; see https://toml.io")) << config.error().message;
    } else {
      EXPECT_EQ(config.error().message, wrong.message) << wrong.text;
    }
  }
}

constexpr const char* kGuest = "[port.p]\ntype = \"guest\"\nsocket = \"/s\"\nmac = \"52:54:00:00:00:07\"\n";
constexpr const char* kHost = "[port.p]\ntype = \"tap\"\nnetdev = \"tap7\"\nmac = \"52:54:00:00:00:07\"\n";

struct WrongMember {
  std::string text;
  std::string message;
};
const WrongMember kWrongMembers[] = {
    {"[port.p]\ntype = \"guest\"\nmac = \"52:54:00:00:00:07\"\n",
     "f:13: port.p has no socket; write for example socket = \"/run/sluice/p.sock\""},
    {"[port.p]\ntype = \"guest\"\nsocket = \"/s\"\n",
     "f:13: port.p has no mac; write for example mac = \"52:54:00:00:00:01\""},
    {"[port.p]\ntype = \"guest\"\nsocket = \"/s\"\nmac = []\n",
     "f:13: port.p has no mac; write for example mac = \"52:54:00:00:00:01\""},
    {"[port.p]\ntype = \"guest\"\nsocket = \"/s\"\nmac = \"52-54\"\n",
     "f:16: port.p.mac is \"52-54\"; it must be a MAC address, for example \"52:54:00:00:00:01\""},
    {"[port.p]\ntype = \"guest\"\nsocket = \"/s\"\nmac = [\"52:54:00:00:00:07\",\n\"33:33:00:00:00:01\"]\n",
     "f:17: port.p.mac: 33:33:00:00:00:01 is a group address and cannot be a source; the first byte must be "
     "even"},
    {"[port.p]\ntype = \"guest\"\nsocket = \"/s\"\nmac = \"00:00:00:00:00:00\"\n",
     "f:16: port.p.mac: 00:00:00:00:00:00 is nobody's address; choose another"},
    {"[port.p]\ntype = \"guest\"\nsocket = \"/s\"\nmac = [\"52:54:00:00:00:07\",\n\"52:54:00:00:00:07\"]\n",
     "f:17: port.p.mac names 52:54:00:00:00:07 twice; once is enough"},
    {"[port.p]\ntype = \"guest\"\nsocket = \"/s\"\nuplink = \"eth1\"\nmac = \"52:54:00:00:00:02\"\n",
     "f:17: port.p.mac: 52:54:00:00:00:02 is port host0's already; on one uplink and VLAN an address is one "
     "port's"},
    {std::string(kGuest) + "uplink = \"eth9\"\n",
     "f:17: port.p.uplink: NIC eth9 is not configured; add a section [nic.eth9]; did you mean \"eth1\"?"},
    {std::string(kGuest) + "role = \"master\"\n",
     "f:17: port.p.role is \"master\"; it must be one of server, client"},
    {std::string(kGuest) + "allow_users = [\"no such\"]\n",
     "f:17: port.p.allow_users: there is no user \"no such\"; create it or write a number"},
    {std::string(kGuest) + "vlan = 4095\n", "f:17: port.p.vlan is 4095; it must be a number from 0 to 4094"},
    {std::string(kGuest) + "mode = \"passthru\"\n",
     "f:17: port.p.mode is \"passthru\"; it must be one of bridge, vepa, private"},
    {std::string(kGuest) + "trust = 1\n", "f:17: port.p.trust is an integer; it must be true or false"},
    {std::string(kGuest) + "memory = \"64 GiB\"\n",
     "f:17: port.p.memory is \"64 GiB\"; it must be a size from \"1MiB\" to \"64TiB\", for example "
     "\"64GiB\""},
    {std::string(kGuest) + "memory = \"65TiB\"\n",
     "f:17: port.p.memory is \"65TiB\"; it must be a size from \"1MiB\" to \"64TiB\", for example \"64GiB\""},
    {std::string(kGuest) + "memory = 64\n", "f:17: port.p.memory is an integer; it must be a string"},
    {std::string(kGuest) + "allow_groups = [\"no such\"]\n",
     "f:17: port.p.allow_groups: there is no group \"no such\"; create it or write a number"},
    {std::string(kGuest) + "allow_cgroup = \"vm0.scope\"\n",
     "f:17: port.p.allow_cgroup is \"vm0.scope\"; it must be a path below the root of cgroup v2, for example "
     "\"/machine.slice/vm0.scope\""},
    {std::string(kGuest) + "source_ip = [\"192.0.2.5\",\n\"192.0.2.0/33\"]\n",
     "f:18: port.p.source_ip[1] is \"192.0.2.0/33\"; it must be an address or a prefix, for example "
     "\"192.0.2.5\" or \"2001:db8::/64\""},
    {std::string(kGuest) + "frame_rate = -1\n",
     "f:17: port.p.frame_rate is -1; it must be a number from 0 to 1000000000"},
    {std::string(kGuest) + "stall_window_ms = 99\n",
     "f:17: port.p.stall_window_ms is 99; it must be a number from 100 to 60000"},
    {std::string(kGuest) + "queue_pairs = 65\n",
     "f:17: port.p.queue_pairs is 65; it must be a number from 1 to 64"},
    {std::string(kGuest) + "queues = [\"eth1:0\"]\n",
     "f:17: port.p.queues are for apps: a guest that owns a queue is for a later version; leave the key out, "
     "and it shares the queues of its uplink"},
    {std::string(kGuest) + "pages = 64\n",
     "f:17: port.p.pages is not a key of a port of type \"guest\"; its keys: type, socket, role, "
     "allow_users, allow_groups, allow_cgroup, mac, vlan, uplink, mode, trust, source_ip, frame_rate, "
     "broadcast_rate, stall_budget_us, stall_window_ms, queue_pairs, memory, populate, sealed_memory"},
    {std::string(kGuest) + "vlna = 7\n",
     "f:17: port.p.vlna is not a key that Sluice knows; did you mean \"vlan\"?"},
    {"[port.w]\ntype = \"guest\"\nsocket = \"/vm0\"\nmac = \"52:54:00:00:00:07\"\n",
     "f:15: port.w.socket is \"/vm0\", as port.vm0.socket is; each needs a path of its own"},

    {"[port.p]\ntype = \"tap\"\nmac = \"52:54:00:00:00:07\"\n",
     "f:13: port.p has no netdev; write for example netdev = \"sluice0\""},
    {"[port.p]\ntype = \"tap\"\nnetdev = \"tap7\"\n",
     "f:13: port.p has no mac; write for example mac = \"52:54:00:00:00:01\""},
    {"[port.p]\ntype = \"tap\"\nnetdev = \"tap7\"\nmac = [\"52:54:00:00:00:07\", \"52:54:00:00:00:08\"]\n",
     "f:16: port.p.mac has 2 addresses; a network device has one"},
    {"[port.p]\ntype = \"tap\"\nnetdev = \"a name too long\"\nmac = \"52:54:00:00:00:07\"\n",
     "f:15: port.p.netdev is \"a name too long\"; it must be the name of a network device, 1 to 15 "
     "characters"},
    {"[port.p]\ntype = \"tap\"\nnetdev = \"eth2\"\nmac = \"52:54:00:00:00:07\"\n",
     "f:15: port.p.netdev: eth2 is a NIC; it is a new device that is made, choose another name"},
    {"[port.p]\ntype = \"tap\"\nnetdev = \"sluice0\"\nmac = \"52:54:00:00:00:07\"\n",
     "f:15: port.p.netdev: sluice0 is port host0's already; choose another name"},
    {std::string(kHost) + "address = \"192.0.2.1\"\n",
     "f:17: port.p.address is \"192.0.2.1\"; it must be an address with its prefix, for example "
     "\"192.0.2.1/24\""},
    {std::string(kHost) + "address = [\"192.0.2.1/24\",\n\"2001:db8::1/129\"]\n",
     "f:18: port.p.address[1] is \"2001:db8::1/129\"; it must be an address with its prefix, for example "
     "\"192.0.2.1/24\""},
    {std::string(kHost) + "mtu = 67\n", "f:17: port.p.mtu is 67; it must be a number from 68 to 65521"},
    {std::string(kHost) + "socket = \"/s\"\n",
     "f:17: port.p.socket is not a key of a port of type \"tap\"; its keys: type, netdev, mac, address, "
     "mtu, vlan, uplink, mode, source_ip, frame_rate, broadcast_rate"},
    {std::string(kHost) + "trust = true\n",
     "f:17: port.p.trust is not a key of a port of type \"tap\"; its keys: type, netdev, mac, address, mtu, "
     "vlan, uplink, mode, source_ip, frame_rate, broadcast_rate"},
    {"[port.p]\ntype = \"app\"\nsocket = \"/s\"\nmode = \"bridge\"\n",
     "f:16: port.p.mode is not a key of a port of type \"app\"; its keys: type, socket, allow_users, "
     "allow_groups, allow_cgroup, mac, vlan, uplink, trust, source_ip, frame_rate, broadcast_rate, "
     "stall_budget_us, stall_window_ms, pages, ring, queues, attach_rate, stall_timeout_ms, observe"},

    {"[[rule]]\nport = \"vm9\"\nmatch = \"\"\nto = \"drop\"\n",
     "f:14: rule.port: there is no port \"vm9\"; did you mean \"vm0\"?"},
    {"[[rule]]\nnic = \"eth1\"\nport = \"vm0\"\nmatch = \"\"\nto = \"drop\"\n",
     "f:15: rule has nic and port; it stands on what comes from a NIC or on what a port sends, write two "
     "rules "
     "for both"},
    {"[[rule]]\nport = \"vm0\"\nmatch = \"\"\nto = \"kernel\"\n",
     "f:16: rule.to: kernel is for packets from the wire; what a port sends goes to another port or to "
     "\"drop\" (a port of type \"tap\" leads into the kernel)"},
    {"[[rule]]\nport = \"vm0\"\nmatch = \"\"\nto = \"netdev:eth2\"\n",
     "f:16: rule.to: netdev:eth2 is for packets from the wire; what a port sends goes to another port or to "
     "\"drop\" (a port of type \"tap\" leads into the kernel)"},
    {"[[rule]]\nport = \"vm0\"\nmatch = \"\"\nto = \"host0\"\nshed = true\n",
     "f:17: rule.shed is for packets from the wire, which XDP drops early; leave it out"},
    {"[[rule]]\nmatch = \"\"\nto = \"vm0\"\nshed = true\n",
     "f:16: rule.shed: vm0 has no pages to run out of; shed is for rules to a port of type \"app\""},
};

TEST(Config, NamesWhatIsWrongWithGuestsTapsAndRulesOnPorts) {
  ASSERT_TRUE(parse_config(kMembers, "f")) << parse_config(kMembers, "f").error().message;
  for (const WrongMember& wrong : kWrongMembers) {
    auto config = parse_config(std::string(kMembers) + wrong.text, "f");
    ASSERT_FALSE(config) << wrong.text;
    EXPECT_EQ(config.error().message, wrong.message) << wrong.text;
  }
}

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
  EXPECT_TRUE(parse_config(std::string(kMembers) + other_vlan + "uplink = \"eth1\"\n", "f"));
  EXPECT_TRUE(parse_config(std::string(kMembers) + other_vlan + "uplink = \"eth2\"\nvlan = 5\n", "f"));
  EXPECT_FALSE(parse_config(std::string(kMembers) + other_vlan + "uplink = \"eth1\"\nvlan = 5\n", "f"));
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
