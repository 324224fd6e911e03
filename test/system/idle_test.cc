// What a daemon that has nothing to do costs: nothing that could be saved.
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "base/clock.h"
#include "test/system/fixture.h"

namespace sluice::test {
namespace {

// How often each thread of a process has gone to sleep so far, by the thread's name.
std::map<std::string, std::uint64_t> sleeps_of(pid_t pid) {
  std::map<std::string, std::uint64_t> sleeps;
  for (const auto& task : std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid))) {
    std::ifstream status(task.path() / "status");
    std::string name;
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("Name:")) {
        name = line.substr(6);
      } else if (line.starts_with("voluntary_ctxt_switches:")) {
        sleeps[name] += std::stoull(line.substr(24));
      }
    }
  }
  return sleeps;
}

class Idle : public SystemTest {};

TEST_F(Idle, AnIdleDaemonsWorkersDoNotWakeAndItsControlThreadDoesOnceASecond) {
  start(nic_table() + app_port("app") + udp_rule(5000, "app") +
        "[port.vm0]\ntype = \"guest\"\nsocket = \"@/vm0.sock\"\nmac = \"52:54:00:00:00:01\"\n");
  auto app = attach("app", 5000, 0);
  const pid_t pid = daemon().pid();
  std::map<std::string, std::uint64_t> before;
  // A veth that has just come up still sends: neighbour discovery.
  ASSERT_TRUE(eventually([&] {
    const std::uint64_t wakeups = daemon().counter("worker.0.wakeups");
    std::this_thread::sleep_for(std::chrono::seconds(1));  // lint: allow(sleep): the silence that is meant
    return daemon().counter("worker.0.wakeups") == wakeups;
  }));
  const std::uint64_t wakeups = daemon().counter("worker.0.wakeups");
  before = sleeps_of(pid);
  const std::uint64_t begin = now_ns();
  std::this_thread::sleep_for(std::chrono::seconds(5));  // lint: allow(sleep): the silence that is meant
  const std::map<std::string, std::uint64_t> after = sleeps_of(pid);
  const std::uint64_t seconds = (now_ns() - begin) / 1'000'000'000 + 1;
  EXPECT_EQ(after.at("sluice-w0") - before.at("sluice-w0"), 0u);
  EXPECT_LE(after.at("sluiced") - before.at("sluiced"), seconds);
  for (const auto& [name, sleeps] : after) {
    EXPECT_LE(sleeps - (before.contains(name) ? before.at(name) : 0), 2 * seconds) << name;
  }
  EXPECT_EQ(daemon().counter("worker.0.wakeups"), wakeups);
}

}  // namespace
}  // namespace sluice::test
