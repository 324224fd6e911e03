// A thousand ports in one daemon: what they take is counted, known before, and refused by name when it is not
// there.
#include <sys/resource.h>

#include "base/descriptors.h"
#include "test/system/fixture.h"
#include "test/system/processes.h"
#include "test/system/raw_app.h"
#include "test/vhost/mock_front_end.h"

namespace sluice::test {
namespace {

constexpr int kApps = 500, kGuests = 500;
constexpr std::uint16_t kFirstUdp = 10'000;

class ManyPorts : public SystemTest {
 protected:
  static std::string config() {
    std::string text = "huge_pages = \"never\"\n" + nic_table();
    for (int i = 0; i < kApps; ++i) {
      const std::string name = fmt::format("app{}", i);
      text += app_port(name, "pages = 64") + udp_rule(static_cast<std::uint16_t>(kFirstUdp + i), name);
    }
    for (int i = 0; i < kGuests; ++i) {
      text += guest_port(i);
    }
    return text;
  }
  static std::string guest_port(int i) {
    return fmt::format(
        "[port.vm{0}]\ntype = \"guest\"\nsocket = \"@/vm{0}.sock\"\nmac = \"52:54:00:00:{1:02x}:{2:02x}\"\n",
        i, i / 256 + 1, i % 256);
  }
  std::unique_ptr<AppPeer> attach_raw(const std::string& port) {
    auto [socket, answer] = welcome_at(daemon().path(port + ".sock"));
    need(answer.fds.size() >= 6, "the descriptors of " + port);
    return serve(std::move(socket), std::move(answer));
  }
  std::uint64_t daemon_counter(const std::string& name) { return daemon().counter("daemon." + name); }
};

TEST_F(ManyPorts, FiveHundredAttachedAppsAndFiveHundredIdleGuestPortsWorkWithinWhatWasComputed) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < 12'000) {
    GTEST_SKIP() << "needs 12000 descriptors, the hard limit is " << limit.rlim_max;
  }
  start(config());
  ASSERT_LE(daemon_counter("descriptors_needed"), daemon_counter("descriptors_limit"));
  std::vector<std::unique_ptr<AppPeer>> apps;
  for (int i = 0; i < kApps; ++i) {
    apps.push_back(attach_raw(fmt::format("app{}", i)));
  }
  EXPECT_LE(daemon_counter("descriptors_used"), daemon_counter("descriptors_needed"));
  // The last app gets its packet.
  Tap wire = wire_tap();
  int error = 0;
  const auto send_to_last = [&] {
    std::optional<sluice_rx_entry> got;
    const bool came = wire.send(frame_to(kFirstUdp + kApps - 1), error) &&
                      eventually([&] { return (got = apps.back()->receive()).has_value(); });
    if (came) {
      apps.back()->give_back(got->page);
    }
    return came;
  };
  // Nobody polls the others, once there were turns enough to see that they do nothing.
  for (int i = 0; i < 300; ++i) {
    ASSERT_TRUE(send_to_last()) << i << ": errno " << error;
  }
  EXPECT_FALSE(apps.front()->receive().has_value());
  EXPECT_GE(daemon().counter("worker.0.lanes_resting"), kApps + kGuests - 1u);
  // No process is any app's or idle guest port's; the last guest port takes a front-end, which gets one.
  const std::size_t processes = descendants_of(daemon().pid()).size();
  EXPECT_LE(processes, 3u) << "zygote, its parent, and who closes";
  FrontEnd front = FrontEnd::connect(daemon().path(fmt::format("vm{}.sock", kGuests - 1)));
  ASSERT_TRUE(front.connected());
  EXPECT_TRUE(front.barrier());
  EXPECT_EQ(descendants_of(daemon().pid()).size(), processes + 1);
  EXPECT_LE(daemon_counter("descriptors_used"), daemon_counter("descriptors_needed"));
}

TEST_F(ManyPorts, WhoComesWhenDescriptorsAreShortIsToldSoAndWhoIsThereStays) {
  start(nic_table() + app_port("there") + app_port("late") + udp_rule(kFirstUdp, "there") + guest_port(0));
  Stream there = stream_to("there", kFirstUdp);
  const std::uint64_t used = daemon_counter("descriptors_used");
  rlimit before{}, tight{};
  ASSERT_EQ(::prlimit(daemon().pid(), RLIMIT_NOFILE, nullptr, &before), 0);
  tight = {.rlim_cur = used + kDescriptorsKept + 5, .rlim_max = before.rlim_max};
  ASSERT_EQ(::prlimit(daemon().pid(), RLIMIT_NOFILE, &tight, nullptr), 0);

  App::Options options;
  options.socket = daemon().path("late.sock");
  auto late = App::attach(options);
  ASSERT_FALSE(late);
  EXPECT_NE(late.error().message.find("raise LimitNOFILE"), std::string::npos) << late.error().message;
  FrontEnd front = FrontEnd::connect(daemon().path("vm0.sock"));
  EXPECT_TRUE(front.wait_closed());
  EXPECT_TRUE(eventually([&] { return daemon().log().find("a front-end, pid") != std::string::npos; }));
  EXPECT_EQ(port_counter("vm0", "refused"), 1u);

  ASSERT_EQ(::prlimit(daemon().pid(), RLIMIT_NOFILE, &before, nullptr), 0);
  EXPECT_TRUE(App::attach(options));
  FrontEnd again = FrontEnd::connect(daemon().path("vm0.sock"));
  EXPECT_TRUE(again.barrier());
  there.expect_nothing_lost();
}

}  // namespace
}  // namespace sluice::test
