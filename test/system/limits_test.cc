// What one program may take, and that nobody else pays for it.
#include <filesystem>
#include <fstream>

#include "test/system/fixture.h"

namespace sluice::test {
namespace {

constexpr std::uint16_t kGood = 5000, kBad = 5001, kBadShed = 5002;

class Limits : public SystemTest {
 protected:
  // Two queues, so that what the one program leaves lying takes no room on the other's way through the veth.
  Limits() : SystemTest({.queues = 2}) {}
  std::string config(const std::string& of_bad) {
    return nic_table() + app_port("good", "attach_rate = 0") + app_port("bad", of_bad + "\nattach_rate = 0") +
           udp_rule(kGood, "good") + udp_rule(kBad, "bad") + udp_rule(kBadShed, "bad", "shed = true");
  }
};

TEST_F(Limits, WhoDoesNotReadLosesItsOwnPacketsAsRingFullAndNobodyElseLosesAny) {
  constexpr std::uint64_t kFrames = 3'000, kRing = 128;
  start(config("pages = 256"));
  Stream good = stream_to("good", kGood);
  auto bad = attach("bad", kBad, kFrames);
  bad->set_mode(App::Mode::kPaused);
  send_counted("bad", kBad, {.count = kFrames, .cpu = 1});
  expect_port_counter("bad", "rx_packets", kRing);
  expect_port_counter("bad", "drop_ring_full", kFrames - kRing);
  EXPECT_EQ(port_counter("bad", "drop_page_limit"), 0u);
  bad->set_mode(App::Mode::kRead);
  EXPECT_TRUE(eventually([&] { return bad->received() == kRing; })) << bad->received();
  good.expect_nothing_lost();
}

TEST_F(Limits, WhoReturnsNothingGetsItsLimitOfPagesAndThenNothingMoreUntilItDoes) {
  constexpr std::uint64_t kFrames = 2'000, kPages = 100;
  start(config("pages = 100"));
  Stream good = stream_to("good", kGood);
  auto bad = attach("bad", kBad, 2 * kFrames);
  bad->set_mode(App::Mode::kHoard);
  // Slowly enough for its ring of 64: it reads, it just does not return.
  for (std::uint64_t sent = 0; sent < kPages; sent += 20) {
    send_counted("bad", kBad, {.count = 20, .cpu = 1, .first = sent});
    ASSERT_TRUE(eventually([&] { return bad->held() == sent + 20; }));
  }
  send_counted("bad", kBad, {.count = kFrames - kPages, .cpu = 1, .first = kPages});
  expect_port_counter("bad", "drop_page_limit", kFrames - kPages);
  EXPECT_EQ(port_counter("bad", "drop_ring_full"), 0u);
  EXPECT_EQ(bad->held(), kPages);
  EXPECT_EQ(daemon().port("bad")["pages_held"], kPages);
  bad->release_hoard();
  bad->set_mode(App::Mode::kRead);
  send_counted("bad", kBad, {.count = 50, .cpu = 1, .first = kFrames});
  EXPECT_TRUE(eventually([&] { return bad->received() == kPages + 50; })) << bad->received();
  good.expect_nothing_lost();
}

TEST_F(Limits, UnderPressureShedRulesDropBeforeTheStackAndOthersOfTheSamePortPass) {
  constexpr std::uint64_t kPages = 256, kPressure = kPages * 3 / 4, kShed = 500;
  start(config("pages = 256\nring = 256"));
  Stream good = stream_to("good", kGood);
  auto bad = attach("bad", kBad, 4 * kPages);
  bad->set_mode(App::Mode::kHoard);
  send_counted("bad", kBad, {.count = kPressure - 1, .cpu = 1});
  // One below the mark, a packet that may be shed still passes, and is the one that reaches it.
  send_counted("bad", kBadShed, {.count = 1, .cpu = 1});
  expect_port_counter("bad", "rx_packets", kPressure);
  send_counted("bad", kBadShed, {.count = kShed, .cpu = 1});
  expect_port_counter("bad", "xdp_drop_shed", kShed);
  expect_port_counter("bad", "rx_packets", kPressure);
  send_counted("bad", kBad, {.count = 32, .cpu = 1});
  expect_port_counter("bad", "rx_packets", kPressure + 32);
  EXPECT_EQ(port_counter("bad", "drop_page_limit"), 0u);
  ASSERT_TRUE(eventually([&] { return bad->held() == kPressure + 32; }));
  bad->release_hoard();
  // A worker that has nothing to do looks at returns until the pressure is over.
  ASSERT_TRUE(eventually([&] { return daemon().port("bad")["pages_held"] < kPages / 2; }));
  send_counted("bad", kBadShed, {.count = 50, .cpu = 1});
  expect_port_counter("bad", "rx_packets", kPressure + 32 + 50);
  expect_port_counter("bad", "xdp_drop_shed", kShed);
  good.expect_nothing_lost();
}

TEST_F(Limits, WhoStallsIsCutOffAndMayComeBackWhileOthersGoOn) {
  start(config("pages = 64\nstall_timeout_ms = 200"));
  Stream good = stream_to("good", kGood);
  auto bad = attach("bad", kBad, 1000);
  bad->set_mode(App::Mode::kHoard);
  send_counted("bad", kBad, {.count = 64, .cpu = 1});
  ASSERT_TRUE(eventually([&] { return port_counter("bad", "cut_off") == 1; }));
  EXPECT_NE(daemon().log().find("has returned none"), std::string::npos) << daemon().log();
  // libsluice attaches again by itself; what was hoarded stays readable, and counts for nothing in the new
  // session.
  ASSERT_TRUE(eventually([&] { return bad->attached() && bad->attaches() >= 2; }));
  bad->set_mode(App::Mode::kRead);
  send_counted("bad", kBad, {.count = 50, .cpu = 1, .first = 100});
  EXPECT_TRUE(eventually([&] { return bad->received() >= 64 + 50; })) << bad->received();
  EXPECT_EQ(bad->held(), 64u);
  bad->release_hoard();
  good.expect_nothing_lost();
}

// What a process has, as the kernel counts it.
struct Usage {
  std::size_t fds = 0, mappings = 0;
  long resident_pages = 0;
};

Usage usage_of(pid_t pid) {
  namespace fs = std::filesystem;
  Usage usage;
  const std::string proc = fmt::format("/proc/{}/", pid);
  usage.fds =
      static_cast<std::size_t>(std::distance(fs::directory_iterator(proc + "fd"), fs::directory_iterator()));
  std::ifstream maps(proc + "maps");
  for (std::string line; std::getline(maps, line);) {
    ++usage.mappings;
  }
  std::ifstream statm(proc + "statm");
  long size = 0;
  statm >> size >> usage.resident_pages;
  return usage;
}

// One program comes, gets a few packets, and goes without giving all of them back.
void come_and_go(App& app) {
  ASSERT_TRUE(eventually([&] { return app.received() >= 20; }));
}

TEST_F(Limits, ADaemonDoesNotGrowByProgramsThatComeAndGo) {
  constexpr int kWarmUp = 20, kCycles = 200;
  start("huge_pages = \"never\"\n" + config("pages = 256\nqueues = [\"nic0:1\"]"));
  auto to_good = flow(kGood, {.cpu = 0, .packets_per_second = 10'000});
  auto to_bad = flow(kBad, {.cpu = 1, .packets_per_second = 10'000});
  to_good->start();
  to_bad->start();
  auto settled = [&] {
    EXPECT_TRUE(eventually([&] {
      return daemon().port("good")["state"] == "detached" && daemon().port("bad")["state"] == "detached";
    }));
    return usage_of(daemon().pid());
  };
  Usage before;
  for (int cycle = 0; cycle < kWarmUp + kCycles; ++cycle) {
    if (cycle == kWarmUp) {
      before = settled();
    }
    come_and_go(*attach("good", kGood, 1'000'000));
    if (cycle % 10 == 0) {  // the kernel takes its time to close a queue
      come_and_go(*attach("bad", kBad, 1'000'000));
    }
  }
  Usage after = settled();
  EXPECT_LE(after.fds, before.fds + 3) << "one or another may be on its way to the undertaker";
  EXPECT_LE(after.mappings, before.mappings + 8) << "the allocator may have made an arena or two";
  EXPECT_LE(after.resident_pages, before.resident_pages + 256) << "1 MiB; a session's memory is more";
}

}  // namespace
}  // namespace sluice::test
