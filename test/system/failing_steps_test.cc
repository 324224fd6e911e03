// A change of which one step cannot be carried out: what came before it and what comes behind it is done,
// what runs goes on, and what could not be done is done when it can be.
#include <csignal>
#include <filesystem>
#include <fstream>

#include "test/system/fixture.h"
#include "test/system/other_program.h"

namespace sluice::test {
namespace {

constexpr std::uint16_t kGood = 5000, kFirst = 5001, kBlocked = 5002, kLast = 5003, kOut = 5004;

class FailingSteps : public SystemTest {
 protected:
  // `uplink` for ports that must not lose theirs when there is a second NIC.
  static std::string app(const std::string& name, std::uint16_t udp_port) {
    return app_port(name, "uplink = \"nic0\"") + udp_rule(udp_port, name);
  }
  static std::string guest(const std::string& name) {
    return fmt::format(
        "[port.{0}]\ntype = \"guest\"\nuplink = \"nic0\"\nsocket = \"@/{0}.sock\"\n"
        "mac = \"52:54:00:00:00:01\"\n",
        name);
  }
  std::string reload(const std::string& config) {
    daemon().write_config(config);
    auto done = daemon().call("reload");
    return done ? "" : done.error().message;
  }
  nlohmann::json queue_of(const std::string& netdev) {
    for (const auto& row : daemon().show("queues")) {
      if (row["nic"] == netdev) {
        return row;
      }
    }
    return {};
  }
  bool nic_is_attached(const std::string& netdev) {
    for (const auto& nic : daemon().show("nics")) {
      if (nic["name"] == netdev) {
        return !nic["ifindex"].is_null();
      }
    }
    return false;
  }
  // A frame by another wire comes to the program of its NIC, and by its rules to the detached port.
  bool reaches(const VethPair& wire, std::uint16_t udp_port, const std::string& port) {
    UdpFrame udp = wire.to_nic();
    udp.destination_port = udp_port;
    Tap tap(wire_ns(), wire.wire_ifindex());
    const std::uint64_t before = port_counter(port, "xdp_drop_no_reader");
    return eventually([&] {
      int error = 0;
      return tap.send(udp_frame(udp), error) && port_counter(port, "xdp_drop_no_reader") > before;
    });
  }
};

TEST_F(FailingSteps, PortsBeforeAndBehindOneThatCannotBeMadeAreMadeAndItIsWhenItCanBe) {
  const std::string before = nic_table() + app("good", kGood);
  start(before);
  Stream good = stream_to("good", kGood);
  for (const char* name : {"blocked.sock", "blocked-vm.sock"}) {
    std::ofstream(daemon().path(name)) << "no socket";
  }
  // By name: a-first, blocked, blocked-vm, good, z-last.
  const std::string all =
      before + app("a-first", kFirst) + app("blocked", kBlocked) + guest("blocked-vm") + app("z-last", kLast);
  const std::string failures = reload(all);
  for (const char* word : {"blocked:", "blocked-vm:", "exists and is not a socket"}) {
    EXPECT_NE(failures.find(word), std::string::npos) << word << " is not in: " << failures;
  }
  for (const char* word : {"a-first:", "z-last:", "good:"}) {
    EXPECT_EQ(failures.find(word), std::string::npos) << word << " is in: " << failures;
  }
  EXPECT_TRUE(daemon().port("blocked").is_null());
  EXPECT_TRUE(daemon().port("blocked-vm").is_null());
  for (const auto& [name, udp_port] : {std::pair("a-first", kFirst), std::pair("z-last", kLast)}) {
    auto app = attach(name, udp_port, 500);
    auto to_app = flow(udp_port, {.count = 500, .allowed = app->allowed()});
    to_app->start();
    app->expect_all_once();
  }
  for (const char* name : {"blocked.sock", "blocked-vm.sock"}) {
    EXPECT_TRUE(std::filesystem::is_regular_file(daemon().path(name))) << "it is somebody's";
    std::filesystem::remove(daemon().path(name));
  }
  EXPECT_EQ(reload(all), "");
  EXPECT_FALSE(daemon().port("blocked-vm").is_null());
  auto app = attach("blocked", kBlocked, 500);
  auto to_app = flow(kBlocked, {.count = 500, .allowed = app->allowed()});
  to_app->start();
  app->expect_all_once();
  good.expect_nothing_lost();
}

TEST_F(FailingSteps, ANicThatIsAddedWhileAnotherProgramHasItsQueueServesWhenThatGoes) {
  VethPair second = make_second_wire();
  const std::string before = nic_table() + app("good", kGood) + app("first", kFirst);
  start(before);
  Stream good = stream_to("good", kGood);
  auto other = nic_ns().in([&] { return std::make_unique<OtherProgram>("nic1", second.nic_ifindex()); });
  EXPECT_EQ(reload(before + nic_table("nic1")), "");
  EXPECT_TRUE(nic_is_attached("nic1"));
  ASSERT_TRUE(eventually([&] { return queue_of("nic1")["state"] == "failed"; })) << queue_of("nic1").dump();
  EXPECT_NE(queue_of("nic1")["why"].get<std::string>().find("another AF_XDP socket"), std::string::npos)
      << queue_of("nic1").dump();
  EXPECT_EQ(queue_of("nic0")["state"], "open");
  other.reset();
  ASSERT_TRUE(eventually([&] { return queue_of("nic1")["state"] == "open"; })) << daemon().log();
  auto first = attach("first", kFirst, 0);
  UdpFrame udp = second.to_nic();
  udp.destination_port = kFirst;
  int error = 0;
  ASSERT_TRUE(Tap(wire_ns(), second.wire_ifindex()).send(udp_frame(udp), error)) << error;
  EXPECT_TRUE(eventually([&] { return port_counter("first", "rx_packets") == 1; }));
  good.expect_nothing_lost();
}

// The program of a NIC that comes back is told of every port. One of them, a netdev, vanishes before that,
// and the daemon has not yet heard of it: it was stopped.
TEST_F(FailingSteps, ANicOfWhichOnePortCannotBeSetIsTriedAgainAndServesAllOfThem) {
  std::optional<VethPair> second = make_second_wire();
  VethOptions options;
  options.nic_name = "out0";
  options.wire_name = "out1";
  options.nic_ip = "10.79.0.1";
  options.wire_ip = "10.79.0.2";
  options.nic_mac = {2, 0, 0, 0, 2, 1};
  options.wire_mac = {2, 0, 0, 0, 2, 2};
  VethPair out = need(VethPair::create(nic_ns(), wire_ns(), options));
  start(nic_table() + nic_table("nic1") + app("good", kGood) + app("first", kFirst) + app("last", kLast) +
        udp_rule(kOut, "netdev:out0"));
  Stream good = stream_to("good", kGood);
  ASSERT_TRUE(reaches(*second, kFirst, "first"));
  second->remove();
  ASSERT_TRUE(eventually([&] { return !nic_is_attached("nic1"); }));

  daemon().signal(SIGSTOP);
  second = make_second_wire();
  out.remove();
  daemon().signal(SIGCONT);
  EXPECT_TRUE(eventually([&] {
    return daemon().log().find("nic nic1 is back, but cannot be used: cannot redirect port") !=
           std::string::npos;
  })) << daemon().log();
  EXPECT_TRUE(eventually([&] { return nic_is_attached("nic1") && queue_of("nic1")["state"] == "open"; }))
      << daemon().log();
  EXPECT_TRUE(reaches(*second, kFirst, "first")) << daemon().log() << daemon().show("rules").dump(1);
  EXPECT_TRUE(reaches(*second, kLast, "last"));
  good.expect_nothing_lost();
}

}  // namespace
}  // namespace sluice::test
