#include "control/daemon.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "base/clock.h"
#include "control/config/model_target.h"
#include "control/rpc/client.h"

namespace sluice {
namespace {

constexpr int kDeadlineMs = 20'000;

// run_daemon() in a process of its own, with a model for an engine and us for systemd.
class DaemonTest : public ::testing::Test {
 protected:
  DaemonTest() {
    char folder[] = "/tmp/sluice-daemon-XXXXXX";
    folder_ = ::mkdtemp(folder);
    config_ = folder_ + "/sluice.toml";
    control_ = folder_ + "/control.sock";
    write("");
    notify_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{AF_UNIX, {}};
    (folder_ + "/notify").copy(address.sun_path, sizeof(address.sun_path) - 1);
    EXPECT_EQ(::bind(notify_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ~DaemonTest() override {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    std::filesystem::remove_all(folder_);
  }

  void write(const std::string& sections) {
    std::ofstream(config_) << "[daemon]\ncontrol = \"" << control_ << "\"\n" << sections;
  }

  void start(const char* watchdog_us = nullptr) {
    pid_ = ::fork();
    ASSERT_GE(pid_, 0);
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::setenv("NOTIFY_SOCKET", (folder_ + "/notify").c_str(), 1);
      if (watchdog_us != nullptr) {
        ::setenv("WATCHDOG_USEC", watchdog_us, 1);
      }
      auto ended = run_daemon(
          {.config_path = config_, .log_level = "off"},
          [](const Config& config, EventLoop&, const std::string&) -> Result<std::unique_ptr<ControlTarget>> {
            return std::make_unique<ModelTarget>(config);
          });
      ::_exit(ended ? 0 : 1);
    }
  }

  // The next message to systemd.
  std::string told() {
    pollfd poll{notify_.get(), POLLIN, 0};
    if (::poll(&poll, 1, kDeadlineMs) != 1) {
      return "(nothing)";
    }
    char text[4096];
    ssize_t got = ::recv(notify_.get(), text, sizeof(text), 0);
    return std::string(text, got > 0 ? static_cast<std::size_t>(got) : 0);
  }
  int end_with(int signal) {
    ::kill(pid_, signal);
    int status = -1;
    ::waitpid(std::exchange(pid_, 0), &status, 0);
    return status;
  }

  std::string folder_, config_, control_;
  UniqueFd notify_;
  pid_t pid_ = 0;
};

TEST_F(DaemonTest, TellsSystemdWhenItIsReadyReloadsAndEnds) {
  start();
  EXPECT_EQ(told(), "READY=1\nSTATUS=0 NICs, 0 ports, 0 rules");
  write("[nic.eth1]\n");
  ::kill(pid_, SIGHUP);
  EXPECT_TRUE(told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
  EXPECT_EQ(told(), "READY=1\nSTATUS=1 NICs, 0 ports, 0 rules");
  auto client = RpcClient::connect(control_).value();
  EXPECT_EQ(client.call("show.nics").value(), (nlohmann::json{{{"name", "eth1"}}}));
  EXPECT_EQ(end_with(SIGTERM), 0);
  EXPECT_EQ(told(), "STOPPING=1");
  EXPECT_FALSE(std::filesystem::exists(control_));
}

TEST_F(DaemonTest, KeepsRunningWhenAReloadFails) {
  start();
  told();
  write("[nic.eth1]\nring = 3\n");
  ::kill(pid_, SIGHUP);
  EXPECT_TRUE(told().starts_with("RELOADING=1"));
  EXPECT_EQ(told(), "READY=1\nSTATUS=the last reload failed: " + config_ +
                        ":4: nic.eth1.ring is 3; it must be a power of two from 64 to 32768");
  EXPECT_TRUE(RpcClient::connect(control_).value().call("version"));
  EXPECT_EQ(end_with(SIGINT), 0);
}

TEST_F(DaemonTest, AnswersTheWatchdogFromItsLoop) {
  start("20000");
  EXPECT_TRUE(told().starts_with("READY=1"));
  EXPECT_EQ(told(), "WATCHDOG=1");
  EXPECT_EQ(told(), "WATCHDOG=1");
  EXPECT_EQ(end_with(SIGTERM), 0);
}

TEST_F(DaemonTest, SecondDaemonOnTheSameSocketEndsAndTheFirstGoesOn) {
  start();
  told();
  pid_t first = std::exchange(pid_, 0);
  start();
  int status = 0;
  ::waitpid(std::exchange(pid_, first), &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_TRUE(RpcClient::connect(control_).value().call("version"));
}

TEST_F(DaemonTest, Crash_DaemonThatWasKilledIsFollowedByAnother) {
  start();
  told();
  end_with(SIGKILL);
  EXPECT_TRUE(std::filesystem::exists(control_)) << "the socket of the dead one";
  start();
  EXPECT_TRUE(told().starts_with("READY=1"));
  EXPECT_TRUE(RpcClient::connect(control_).value().call("version"));
}

}  // namespace
}  // namespace sluice
