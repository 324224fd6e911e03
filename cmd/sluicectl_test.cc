// The real sluicectl against the real control socket; only the engine is a model.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "control/config/model_target.h"
#include "control/daemon.h"
#include "control/rpc/client.h"

namespace sluice {
namespace {

struct Outcome {
  int status = -1;
  std::string out;  // stdout and stderr
};

class Sluicectl : public ::testing::Test {
 protected:
  Sluicectl() {
    char folder[] = "/tmp/sluicectl-XXXXXX";
    folder_ = ::mkdtemp(folder);
    control_ = folder_ + "/control.sock";
    std::ofstream(folder_ + "/sluice.toml")
        << "[daemon]\ncontrol = \"" << control_ << "\"\n[nic.eth1]\n"
        << "[port.dns]\ntype = \"app\"\nsocket = \"/run/sluice/dns.sock\"\n"
        << "[[rule]]\nmatch = \"dst_port 53\"\nto = \"dns\"\n";
    // The write end closes when the daemon is ready, or dies.
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    daemon_ = ::fork();
    if (daemon_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::close(ready[0]);
      auto make = [&](const Config& config, EventLoop& loop,
                      const std::string&) -> Result<std::unique_ptr<ControlTarget>> {
        loop.once(0, [&] { ::close(ready[1]); });
        return std::make_unique<ModelTarget>(config);
      };
      auto ended = run_daemon({.config_path = folder_ + "/sluice.toml", .log_level = "off"}, make);
      ::_exit(ended ? 0 : 1);
    }
    ::close(ready[1]);
    pollfd poll{ready[0], POLLIN, 0};
    EXPECT_EQ(::poll(&poll, 1, 20'000), 1) << "the daemon did not get ready";
    ::close(ready[0]);
  }
  ~Sluicectl() override {
    ::kill(daemon_, SIGTERM);
    int status = -1;
    ::waitpid(daemon_, &status, 0);
    EXPECT_EQ(status, 0);
    std::filesystem::remove_all(folder_);
  }

  Outcome run(const std::string& arguments) {
    return read_all(fmt::format("SLUICE_CONTROL={} {} {} 2>&1", control_, SLUICECTL, arguments));
  }
  static Outcome read_all(const std::string& command) {
    std::FILE* pipe = ::popen(command.c_str(), "r");
    Outcome outcome;
    char chunk[4096];
    while (std::size_t got = std::fread(chunk, 1, sizeof(chunk), pipe)) {
      outcome.out.append(chunk, got);
    }
    outcome.status = WEXITSTATUS(::pclose(pipe));
    return outcome;
  }
  // What it prints when it is done well.
  std::string said(const std::string& arguments) {
    Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, 0) << arguments << ": " << outcome.out;
    return outcome.out;
  }

  std::string folder_, control_;
  pid_t daemon_ = 0;
};

TEST_F(Sluicectl, ShowsTablesAndWithJsonExactlyTheResult) {
  EXPECT_EQ(said("show rules"),
            "ID  FROM  PRIORITY  MATCH        TO   SHED  PACKETS  BYTES\n"
            " 0  eth1         0  dst_port 53  dns  no          0      0\n");
  auto client = RpcClient::connect(control_).value();
  for (std::string what : {"nics", "queues", "ports", "guests", "rules", "pools", "counters", "config"}) {
    EXPECT_EQ(nlohmann::json::parse(said("show " + what + " --json")), client.call("show." + what).value());
    said("show " + what);
  }
}

TEST_F(Sluicectl, ChangesRulesAndPortsAndReloads) {
  EXPECT_EQ(said("rule add --nic eth1 --match 'ip_proto udp' --to drop --priority -3"), "");
  EXPECT_NE(said("show rules").find("-3  ip_proto udp  drop"), std::string::npos) << said("show rules");
  EXPECT_EQ(said("rule del --nic eth1 --id 1"), "");
  EXPECT_EQ(said("port add web socket=/run/sluice/web.sock pages=64 queues=eth1:1 mac=02:00:00:00:00:01"),
            "sluicectl: warning: port web receives nothing: no rule has to = \"web\"\n"
            "sluicectl: warning: port web owns eth1:1: packets for dns that arrive there are dropped as "
            "drop_owned_queue; steer them to another queue (ethtool -N eth1), or let web share the queues\n");
  EXPECT_EQ(said("rule add --match 'dst_port 80' --to web --shed"), "");
  EXPECT_EQ(run("port del web").out,
            "sluicectl: the rule \"dst_port 80\" leads to port web; remove it first\n");
  EXPECT_EQ(said("rule del --match 'dst_port 80'"), "");
  EXPECT_EQ(said("reload"), "remove port web\n");
  EXPECT_EQ(said("reload"), "nothing changed\n");
  EXPECT_EQ(said("version"), SLUICE_VERSION "\n");
}

TEST_F(Sluicectl, AddsGuestsAndTheHostAndRulesOnWhatTheySend) {
  EXPECT_EQ(said("show guests"), "no guests\n");
  EXPECT_EQ(said("port add vm0 type=guest socket=/run/sluice/vm0.sock mac=52:54:00:00:00:01 "
                 "mac=52:54:00:00:00:02 vlan=7 mode=vepa role=client allow_users=root queue_pairs=4"),
            "");
  EXPECT_EQ(said("port add host0 type=tap netdev=sluice0 mac=52:54:00:00:00:03 "
                 "address=192.0.2.1/24,2001:db8::1/64 mtu=9000"),
            "");
  EXPECT_NE(said("show config")
                .find("[port.host0]\ntype = \"tap\"\nnetdev = \"sluice0\"\nmac = "
                      "[\"52:54:00:00:00:03\"]\naddress = [\"192.0.2.1/24\", "
                      "\"2001:db8::1/64\"]\nmtu = 9000\n"),
            std::string::npos)
      << said("show config");
  EXPECT_NE(said("show guests").find("vm0    waiting"), std::string::npos) << said("show guests");
  EXPECT_EQ(
      said("rule add --port vm0 --match 'dst_port 25' --to drop"),
      "sluicectl: warning: rule 2 (match \"dst_port 25\" to drop) is no firewall: fragments, and frames with "
      "headers that are not followed, have no ports and pass it; drop by addresses or ip_proto\n");
  EXPECT_NE(said("show rules").find("vm0          0  dst_port 25"), std::string::npos) << said("show rules");
  EXPECT_EQ(run("port del vm0").out,
            "sluicectl: the rule \"dst_port 25\" stands on what port vm0 sends; remove it first\n");
  EXPECT_EQ(said("rule del --port vm0 --id 0"), "");
  EXPECT_EQ(said("port del vm0"), "");
  EXPECT_EQ(
      run("port add p type=guest socket=/p mac=52:54:00:00:00:01 pages=64").out,
      "sluicectl: port.p.pages is not a key of a port of type \"guest\"; its keys: type, socket, role, "
      "allow_users, allow_groups, allow_cgroup, mac, vlan, uplink, mode, trust, source_ip, frame_rate, "
      "broadcast_rate, stall_budget_us, stall_window_ms, queue_pairs, memory, populate, sealed_memory\n");
  EXPECT_EQ(said("reload"), "remove port host0\n");
}

TEST_F(Sluicectl, AddsAPortByTheKeysOfTheConfigFile) {
  EXPECT_EQ(run("port add p pages").out, "sluicectl: pages is not KEY=VALUE, for example pages=4096\n");
  EXPECT_EQ(run("port add p socket=/p pages=many").out,
            "sluicectl: port.p.pages is a string; it must be a number from 64 to 1048576\n");
  EXPECT_EQ(run("port add p socket=/p trust=yes").out,
            "sluicectl: port.p.trust is a string; it must be true or false\n");
  EXPECT_EQ(run("port add p socket=/p pagse=64").out,
            "sluicectl: port.add: unknown parameter \"pagse\"; did you mean \"pages\"?\n");
  EXPECT_NE(said("port add --help").find("  pages  integer, 64 to 1048576; default `4096`\n"),
            std::string::npos);
  EXPECT_EQ(
      said("port add h type=host netdev=t0 mac=52:54:00:00:00:01"),
      "sluicectl: warning: type = \"host\" is the earlier name of \"tap\" and goes with the next release: "
      "write type = \"tap\" for port h\n");
}

TEST_F(Sluicectl, PrintsTheKeysOfTheConfigFile) {
  EXPECT_NE(said("config-keys").find("<!-- keys: nic -->\n| key | value | default | meaning |\n"),
            std::string::npos);
}

TEST_F(Sluicectl, KnowsWhatMayStandNextOnItsCommandLine) {
  auto next = [this](const std::string& line) { return said("complete 'sluicectl " + line + "'"); };
  EXPECT_EQ(next("sh"), "show\n");
  EXPECT_EQ(next("show ru"), "rules\n");
  EXPECT_EQ(next("rule add --m"), "--match\n");
  EXPECT_EQ(next("rule add --nic "), "eth1\n");
  EXPECT_EQ(next("rule add --to d"), "dns\ndrop\n");
  EXPECT_EQ(next("port del "), "dns\n");
  EXPECT_EQ(next("port add "), "--help\n") << "a new name";
  EXPECT_EQ(next("port add x s"),
            "socket=\nsource_ip=\nstall_budget_us=\nstall_timeout_ms=\nstall_window_ms=\n");
  EXPECT_EQ(next("port add x type=tap s"), "source_ip=\n");
  EXPECT_EQ(next("port add x type="), "app\nguest\ntap\n");
  EXPECT_EQ(next("port add x type=guest mode=v"), "vepa\n");
  EXPECT_EQ(next("port add x trust=t"), "true\n");
  EXPECT_EQ(next("port add x uplink="), "eth1\n");
  EXPECT_EQ(next("no such command "), next(""));
}

TEST_F(Sluicectl, CompletionForBashOffersItsWords) {
  auto offered = [this](const std::string& line) {
    std::ofstream(folder_ + "/try.bash")
        << "PATH=" << std::filesystem::path(SLUICECTL).parent_path().string() << ":$PATH\n"
        << "SLUICE_CONTROL=" << control_ << "\nexport SLUICE_CONTROL\n"
        << "compopt() { echo \"compopt $*\"; }\n. " SLUICE_SOURCE_DIR "/packaging/sluicectl.bash\n"
        << "COMP_LINE='" << line << "' COMP_POINT=${#COMP_LINE}\nCOMP_POINT=${#COMP_LINE}\n"
        << "$(complete -p sluicectl | sed 's/.*-F \\([^ ]*\\) .*/\\1/')\n"
        << "echo ${COMPREPLY[*]}\n";
    return read_all("bash " + folder_ + "/try.bash 2>&1").out;
  };
  EXPECT_EQ(offered("sluicectl port add x type=guest mode="), "bridge private vepa\n");
  EXPECT_EQ(offered("sluicectl port add x pa"), "compopt -o nospace\npages=\n");
}

TEST_F(Sluicectl, WatchPrintsAsOftenAsAsked) {
  std::string text = said("watch --interval 0.01 --count 2");
  std::size_t first = text.find("nic eth1");
  ASSERT_NE(first, std::string::npos) << text;
  EXPECT_NE(text.find("nic eth1", first + 1), std::string::npos) << text;
  EXPECT_TRUE(nlohmann::json::parse(said("watch --interval 0.01 --count 1 --json")).is_array());
}

TEST_F(Sluicectl, ErrorIsOneSentenceAndStatus1) {
  Outcome outcome = run("rule add --match '' --to dms");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_EQ(outcome.out, "sluicectl: rule.to: there is no port \"dms\"; did you mean \"dns\"?\n");
  outcome = run("--socket /nowhere show nics");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_EQ(outcome.out,
            "sluicectl: sluiced does not listen on /nowhere; is it running, and is --socket right?: No such "
            "file or "
            "directory\n");
}

TEST_F(Sluicectl, WrongUsageIsStatus2) {
  for (const char* arguments : {"", "show", "show bogus", "rule add --to x", "rule del",
                                "rule del --id 1 --match x", "watch --interval 0", "port add"}) {
    EXPECT_EQ(run(arguments).status, 2) << arguments;
  }
  EXPECT_EQ(run("--help").status, 0);
}

}  // namespace
}  // namespace sluice
