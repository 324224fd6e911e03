// The real sluicectl against the real control socket; only the engine is a model.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "control/config/model_target.h"
#include "control/daemon.h"
#include "control/rpc/client.h"
#include "test/support/golden.h"

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
  auto client = RpcClient::connect(control_).value();
  for (std::string what : {"nics", "queues", "ports", "guests", "rules", "pools", "counters", "config"}) {
    EXPECT_EQ(nlohmann::json::parse(said("show " + what + " --json")), client.call("show." + what).value());
    said("show " + what);
  }
}

// sluicectl.golden is a transcript: "$ " and a command, and what it prints; "[N]" when its status is not 0.
class Transcript : public Sluicectl, public ::testing::WithParamInterface<test::GoldenCase> {};

TEST_P(Transcript, IsWhatItPrints) {
  std::string transcript;
  std::istringstream lines(GetParam().body);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("$ sluicectl ")) {
      continue;  // what the one before has printed
    }
    const Outcome outcome = run(line.substr(12));
    transcript += line + "\n" + outcome.out;
    if (outcome.status != 0) {
      transcript += fmt::format("[{}]\n", outcome.status);
    }
  }
  EXPECT_EQ(transcript, GetParam().body) << SLUICECTL_GOLDEN << ":" << GetParam().line;
}

INSTANTIATE_TEST_SUITE_P(Golden, Transcript, ::testing::ValuesIn(test::golden_cases(SLUICECTL_GOLDEN)),
                         [](const auto& scene) {
                           std::string name = scene.param.head;
                           std::ranges::replace(name, ' ', '_');
                           return name;
                         });

TEST_F(Sluicectl, SaysItsVersion) {
  EXPECT_EQ(said("version"), SLUICE_VERSION "\n");
}

TEST_F(Sluicectl, ShowsTheConfigAsTheFileWouldSayIt) {
  said(
      "port add tap0 type=tap netdev=sluice0 mac=52:54:00:00:00:03 address=192.0.2.1/24,2001:db8::1/64 "
      "mtu=9000");
  EXPECT_NE(said("show config")
                .find("[port.tap0]\ntype = \"tap\"\nnetdev = \"sluice0\"\nmac = [\"52:54:00:00:00:03\"]\n"
                      "address = [\"192.0.2.1/24\", \"2001:db8::1/64\"]\nmtu = 9000\n"),
            std::string::npos)
      << said("show config");
}

TEST_F(Sluicectl, SaysWhichKeysAPortMayHave) {
  EXPECT_NE(said("port add --help").find("  pages  integer, 64 to 1048576; default `4096`\n"),
            std::string::npos);
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

TEST_F(Sluicectl, WrongUsageIsStatus2) {
  for (const char* arguments : {"", "show", "show bogus", "rule add --to x", "rule del",
                                "rule del --id 1 --match x", "watch --interval 0", "port add"}) {
    EXPECT_EQ(run(arguments).status, 2) << arguments;
  }
  EXPECT_EQ(run("--help").status, 0);
}

}  // namespace
}  // namespace sluice
