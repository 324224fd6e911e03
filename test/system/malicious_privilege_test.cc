// What the daemon's threads keep of root's privileges once it serves, and that it serves with that.
#include <linux/capability.h>

#include <cctype>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>

#include "port/guest/vhost_user/features.h"
#include "test/system/fixture.h"
#include "test/system/processes.h"
#include "test/vhost/mock_front_end.h"

namespace sluice::test {
namespace {

constexpr std::uint16_t kDns = 5000;

struct Thread {
  std::string name;
  std::map<std::string, std::string> status;  // "CapEff" -> "0000000000000000"
};

std::vector<Thread> threads_of(pid_t pid) {
  std::vector<Thread> threads;
  for (const auto& task : std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid))) {
    Thread thread;
    std::ifstream file(task.path() / "status");
    for (std::string line; std::getline(file, line);) {
      const std::size_t colon = line.find(':');
      const std::size_t value = line.find_first_not_of(" \t", colon + 1);
      thread.status[line.substr(0, colon)] = value == std::string::npos ? "" : line.substr(value);
    }
    thread.name = thread.status["Name"];
    threads.push_back(std::move(thread));
  }
  return threads;
}

std::uint64_t capabilities(const Thread& thread, const std::string& set) {
  return std::stoull(thread.status.at(set), nullptr, 16);
}

class Malicious_Privilege : public SystemTest {
 protected:
  const std::string guest_ =
      "\n[port.vm1]\ntype = \"guest\"\nsocket = \"@/vm1.sock\"\nmac = \"52:54:00:00:00:01\"\n";
  const std::string all_ = "workers = [ {}, { cpu = 0, idle = \"awake\" } ]\n" + nic_table() +
                           app_port("dns") + guest_ + udp_rule(kDns, "dns");

  void expect_confined() {
    // CAP_IPC_LOCK where the test's root may not raise the limit on locked memory.
    constexpr std::uint64_t kControl = std::uint64_t{1} << CAP_NET_ADMIN | std::uint64_t{1} << CAP_NET_RAW |
                                       std::uint64_t{1} << CAP_BPF | std::uint64_t{1} << CAP_PERFMON |
                                       std::uint64_t{1} << CAP_IPC_LOCK;
    std::size_t workers = 0;
    for (const Thread& thread : threads_of(daemon().pid())) {
      SCOPED_TRACE(thread.name);
      EXPECT_EQ(thread.status.at("NoNewPrivs"), "1");
#if !defined(SLUICE_SANITIZED)
      EXPECT_EQ(thread.status.at("Seccomp"), "2");
#endif
      const bool control = thread.status.at("Pid") == std::to_string(daemon().pid());
      workers += thread.name.starts_with("sluice-w") && std::isdigit(thread.name.back()) != 0;
      for (const char* set : {"CapEff", "CapPrm"}) {
        EXPECT_EQ(capabilities(thread, set) & ~(control ? kControl : 0), 0u) << set;
      }
      EXPECT_EQ(capabilities(thread, "CapBnd") & ~kControl, 0u);
      EXPECT_EQ(capabilities(thread, "CapInh") | capabilities(thread, "CapAmb"), 0u);
    }
    EXPECT_EQ(workers, 2u);
  }
};

TEST_F(Malicious_Privilege, AThreadKeepsNoCapabilityAndControlThoseThatANewNicNeeds) {
  start(all_);
  expect_confined();
  auto app = attach("dns", kDns, 1'000);
  FrontEnd front = FrontEnd::connect(daemon().path("vm1.sock"));
  ASSERT_TRUE(front.barrier()) << daemon().log();
  expect_confined();
}

TEST_F(Malicious_Privilege, WithWhatIsLeftNicsRulesAndTapsComeAndGo) {
  start(all_);
  make_second_wire();
  const std::string more = nic_table("nic1") + app_port("mail") + udp_rule(6000, "mail") +
                           "\n[port.host0]\ntype = \"tap\"\nnetdev = \"host0\"\nmac = \"52:54:00:00:00:02\"\n"
                           "uplink = \"nic1\"\n";
  daemon().write_config(all_ + more);
  ASSERT_TRUE(daemon().call("reload")) << daemon().log();
  EXPECT_EQ(daemon().show("nics").size(), 2u);
  daemon().write_config(all_);
  ASSERT_TRUE(daemon().call("reload")) << daemon().log();
  EXPECT_EQ(daemon().show("nics").size(), 1u);
  expect_confined();
}

// Whatever kind of ring a front-end sets up, what it makes a worker do is on the worker's list.
TEST_F(Malicious_Privilege, AGuestWithoutAnyWayToKickOrBeCalledIsServedByAConfinedWorker) {
  start(all_);
  for (const bool packed : {false, true}) {
    FrontEnd front = FrontEnd::connect(daemon().path("vm1.sock"));
    GuestRam ram(4 << 20);
    front.negotiate(kFeatureVersion1 | kFeatureProtocol | (packed ? kFeatureRingPacked : 0),
                    1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK);
    const GuestRam* rams[] = {&ram};
    ASSERT_TRUE(front.send_table(rams));
    for (std::uint32_t ring : {0u, 1u}) {
      front.set_up_ring(ring, 64, packed ? RingAreas::packed(ram, 64) : RingAreas::split(ram, 64),
                        packed ? 0x8000 : 0, -1, -1);
      front.enable(ring, true);
    }
    ASSERT_TRUE(front.barrier()) << daemon().log();
    // The worker that serves its transmit ring looks at it by a timer, and sleeps in between.
    const auto sleeps = [&] {
      return daemon().counter("worker.0.sleeps") + daemon().counter("worker.1.sleeps");
    };
    const std::uint64_t before = sleeps();
    EXPECT_TRUE(eventually([&] { return sleeps() > before + 2; })) << daemon().log();
    expect_confined();
  }
}

TEST_F(Malicious_Privilege, AZygoteThatIsKilledIsReplacedAndGuestsAreServed) {
  start(all_);
  const auto parents = children_of(daemon().pid());
  ASSERT_EQ(parents.size(), 1u);
  for (int round = 0; round < 3; ++round) {
    const auto zygotes = children_of(parents.front());
    ASSERT_EQ(zygotes.size(), 1u);
    ASSERT_EQ(::kill(zygotes.front(), SIGKILL), 0);
    ASSERT_TRUE(eventually([&] {
      const auto now = children_of(parents.front());
      return now.size() == 1 && now != zygotes;
    }));
    EXPECT_TRUE(eventually([&] {
      FrontEnd front = FrontEnd::connect(daemon().path("vm1.sock"));
      return front.connected() && front.barrier();
    })) << daemon().log();
  }
  EXPECT_NE(daemon().log().find("died of signal 9; another one is started"), std::string::npos);
}

}  // namespace
}  // namespace sluice::test
