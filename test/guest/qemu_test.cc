// Linux guests in QEMU beside everything else that lives on the NIC. Booting takes seconds, so the tests
// share two guests, and each begins with both of them answering.
//
//   wire0 10.77.0.2 === nic0 10.77.0.1 --- sluiced --- vm0 10.77.0.11 (QEMU connects to the daemon)
//                                            |  |
//                          host0 10.79.0.1 --+  +----- vm1 10.77.0.12 (the daemon connects to QEMU)
#include <algorithm>
#include <csignal>

#include "test/guest/fixture.h"
#include "test/guest/qemu_guest.h"
#include "test/support/huge_pages.h"
#include "test/support/ping.h"

namespace sluice::test {
namespace {

constexpr const char* kWireIp = "10.77.0.2";
constexpr const char* kMac[] = {"52:54:00:00:00:01", "52:54:00:00:00:02"};
constexpr const char* kIp[] = {"10.77.0.11", "10.77.0.12"};
constexpr std::uint64_t kBulkBytes = 8 << 20;
constexpr std::uint16_t kAppPort = 5000;

struct Bed {
  NetNs nic_ns = need(NetNs::create()), wire_ns = need(NetNs::create());
  VethPair pair = need(VethPair::create(nic_ns, wire_ns));
  TempFolder folder;
  Daemon daemon{nic_ns};
  GuestImage image;
  std::unique_ptr<QemuGuest> guests[2];
};

class QemuGuests : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    why_not_ = make();
    if (!why_not_.empty()) {
      bed_.reset();
    }
  }
  static void TearDownTestSuite() {
    if (bed_ && daemon().running()) {
      EXPECT_EQ(daemon().stop(), 0);
      const std::string log = daemon().log();
      EXPECT_EQ(log.find("CHECK"), std::string::npos) << log;
      EXPECT_EQ(log.find("Sanitizer"), std::string::npos) << log;
    }
    bed_.reset();
  }

  void SetUp() override {
    SLUICE_NEED_ROOT_AND_XDP();
    if (!why_not_.empty()) {
      if (missing_) {
        GTEST_SKIP() << why_not_;
      }
      FAIL() << why_not_;
    }
    for (int i = 0; i < 2; ++i) {
      ASSERT_TRUE(answers(i)) << "guest " << i << ": " << guest(i).log() << daemon().log();
    }
  }
  void TearDown() override {
    if (bed_ && HasFailure()) {
      std::fprintf(stderr, "the daemon's log:\n%s\n", daemon().log().c_str());
    }
  }

  static Daemon& daemon() { return bed_->daemon; }
  static QemuGuest& guest(int i) { return *bed_->guests[i]; }
  static std::string socket(int i) { return daemon().path(fmt::format("vm{}.sock", i)); }

  static constexpr std::uint32_t kMemoryMb = 256;
  static Result<void> boot(int i, const QemuNic& extra = {}, bool huge_pages = false) {
    QemuNic nic{
        .socket = socket(i), .mac = kMac[i], .server = i == 1, .more = extra.more, .queues = extra.queues};
    auto started = QemuGuest::start({.image = bed_->image,
                                     .address = fmt::format("{}/24", kIp[i]),
                                     .nics = {nic},
                                     .memory_mb = kMemoryMb,
                                     .cpus = std::min(extra.queues, 2u),
                                     .huge_pages = huge_pages});
    SLUICE_TRY(started);
    bed_->guests[i] = std::move(*started);
    return {};
  }

  // From the wire, until it does: a guest that has just come asks for its neighbours first.
  static bool answers(int i) {
    for (int tries = 0; tries < 60; ++tries) {
      if (ping(bed_->wire_ns, kIp[i], 1).lossless()) {
        return true;
      }
    }
    return false;
  }
  static nlohmann::json shown(int i) {
    for (const nlohmann::json& each : daemon().show("guests")) {
      if (each["name"] == fmt::format("vm{}", i)) {
        return each;
      }
    }
    return {};
  }
  static bool becomes(int i, const std::string& state) {
    return eventually([&] { return shown(i).value("state", "") == state; });
  }

  // Bulk TCP whose every byte is known.
  static void expect_bulk(QemuGuest& from, QemuGuest& to, const std::string& to_ip) {
    auto sink = to.begin(fmt::format("guest_end sink 7000 {}", kBulkBytes));
    ASSERT_TRUE(to.says(sink, "LISTENING")) << to.log();
    Finished source = from.run(fmt::format("guest_end source {} 7000 {}", to_ip, kBulkBytes));
    Finished sunk = to.finish(sink);
    EXPECT_TRUE(source.ok()) << source.output;
    EXPECT_TRUE(sunk.ok()) << sunk.output;
  }
  static void expect_bulk_to_wire(QemuGuest& from) {
    auto sink = Console::start({"nsenter", "--net=" + bed_->wire_ns.path(), "--", GUEST_END, "sink", "7000",
                                std::to_string(kBulkBytes)});
    ASSERT_TRUE(sink) << sink.error().message;
    ASSERT_NE((*sink)->wait_for("LISTENING", 0), std::string::npos) << (*sink)->text();
    Finished source = from.run(fmt::format("guest_end source {} 7000 {}", kWireIp, kBulkBytes));
    EXPECT_TRUE(source.ok()) << source.output;
    EXPECT_EQ((*sink)->wait(), 0) << (*sink)->text();
  }
  static void expect_bulk_from_wire(QemuGuest& to, const std::string& to_ip) {
    auto sink = to.begin(fmt::format("guest_end sink 7000 {}", kBulkBytes));
    ASSERT_TRUE(to.says(sink, "LISTENING")) << to.log();
    Finished source =
        bed_->wire_ns.command(fmt::format("{} source {} 7000 {}", GUEST_END, to_ip, kBulkBytes));
    Finished sunk = to.finish(sink);
    EXPECT_TRUE(source.ok()) << source.output;
    EXPECT_TRUE(sunk.ok()) << sunk.output;
  }
  static void expect_ping(int from, const std::string& to) {
    Finished pinged = guest(from).run(fmt::format("ping -c 3 -i 0.1 -W 10 {}", to));
    EXPECT_TRUE(pinged.ok()) << pinged.output;
    EXPECT_NE(pinged.output.find(" 0% packet loss"), std::string::npos) << pinged.output;
  }

  static std::unique_ptr<Bed> bed_;

 private:
  // Empty: all of it is there and running.
  static std::string make() {
    missing_ = true;
    if (std::string why = why_no_root_and_xdp(); !why.empty()) {
      return why;
    }
    if (std::string why = QemuGuest::why_none(); !why.empty()) {
      return why;
    }
    bed_ = std::make_unique<Bed>();
    auto image =
        guest_image(kStandardSuite, bed_->folder.path(), {std::string(GUEST_END) + ":bin/guest_end"});
    if (!image) {
      return image.error().message;
    }
    missing_ = false;
    bed_->image = *image;
    Finished whole = bed_->wire_ns.command("ethtool -K wire0 tx off");
    if (!whole.ok()) {
      return whole.output;
    }
    auto started = daemon().start(
        nic_table() + app_port("app") + udp_rule(kAppPort, "app") +
        guest_port("vm0", kMac[0], "queue_pairs = 64") + guest_port("vm1", kMac[1], "role = \"client\"") +
        "[port.host]\ntype = \"tap\"\nnetdev = \"host0\"\nmac = \"52:54:00:00:00:10\"\n"
        "address = \"10.79.0.1/24\"\n");
    if (!started) {
      return started.error().message;
    }
    for (int i = 0; i < 2; ++i) {
      if (auto booted = boot(i); !booted) {
        return booted.error().message;
      }
    }
    for (int i = 0; i < 2; ++i) {
      if (auto up = guest(i).up(); !up) {
        return up.error().message + daemon().log();
      }
    }
    return "";
  }

  static std::string why_not_;
  static bool missing_;  // of this machine, that is no failure
};

std::unique_ptr<Bed> QemuGuests::bed_;
std::string QemuGuests::why_not_;
bool QemuGuests::missing_ = false;

TEST_F(QemuGuests, PingTheWireAndEachOther) {
  expect_ping(0, kWireIp);
  expect_ping(1, kWireIp);
  expect_ping(0, kIp[1]);
  expect_ping(1, kIp[0]);
  EXPECT_TRUE(ping(bed_->wire_ns, "10.77.0.1").lossless()) << "the kernel's own stack behind the NIC";
}

TEST_F(QemuGuests, CarryBulkTcpToAndFromTheWireAndToEachOtherUnchanged) {
  expect_bulk_to_wire(guest(0));
  expect_bulk_from_wire(guest(0), kIp[0]);
  expect_bulk(guest(0), guest(1), kIp[1]);
  expect_bulk(guest(1), guest(0), kIp[0]);
}

TEST_F(QemuGuests, TalkToTheHostByItsPort) {
  ASSERT_TRUE(guest(0).run("ip addr add 10.79.0.11/24 dev eth0").ok());
  expect_ping(0, "10.79.0.1");
  PingResult pinged = ping(bed_->nic_ns, "10.79.0.11");
  EXPECT_TRUE(pinged.lossless()) << pinged.output;
  ASSERT_TRUE(guest(0).run("ip addr del 10.79.0.11/24 dev eth0").ok());
}

TEST_F(QemuGuests, ShareTheNicWithAProgramAndTheKernel) {
  constexpr std::uint64_t kFrames = 20'000;
  UdpFrame udp = bed_->pair.to_nic();
  udp.destination_port = kAppPort;
  auto app = need(
      App::attach({.socket = daemon().path("app.sock"), .expected = udp_frame(udp), .sequences = kFrames}));
  LiveFramesOptions options;
  options.frame = udp_frame(udp);
  options.count = kFrames;
  options.allowed = app->allowed(0);
  auto flow = need(LiveFrames::create(bed_->pair, options));
  auto kernel = need(Ping::start(bed_->wire_ns, "10.77.0.1", 20));
  auto vm = need(Ping::start(bed_->wire_ns, kIp[1], 50));
  flow->start();
  expect_bulk_to_wire(guest(0));
  app->expect_all_once();
  ASSERT_TRUE(flow->stop());
  PingResult to_kernel = kernel.stop(), to_vm = vm.stop();
  // One may still have been on its way when it was stopped; to an emulated machine, two.
  EXPECT_GT(to_kernel.received, 0u) << to_kernel.output;
  EXPECT_GE(to_kernel.received + 1, to_kernel.sent) << to_kernel.output;
  EXPECT_GT(to_vm.received, 0u) << to_vm.output;
  EXPECT_GE(to_vm.received + 2, to_vm.sent) << to_vm.output;
}

TEST_F(QemuGuests, WhoseDriverIsTakenAwayAndGivenBackGoOn) {
  for (int i = 0; i < 2; ++i) {
    Finished gone = guest(i).run(
        "device=$(basename $(readlink -f /sys/class/net/eth0/device)); echo $device > "
        "/sys/bus/virtio/drivers/"
        "virtio_net/unbind; test ! -e /sys/class/net/eth0");
    ASSERT_TRUE(gone.ok()) << gone.output;
    EXPECT_TRUE(becomes(i, "connected")) << daemon().show("guests").dump(1);
    Finished back = guest(i).run(
        fmt::format("echo $(ls /sys/bus/virtio/devices | head -1) > /sys/bus/virtio/drivers/virtio_net/bind; "
                    "ip addr add {}/24 dev eth0; ip link set eth0 up",
                    kIp[i]));
    ASSERT_TRUE(back.ok()) << back.output;
    EXPECT_TRUE(answers(i)) << daemon().log();
    expect_ping(i, kIp[1 - i]);
  }
}

TEST_F(QemuGuests, ThatRebootComeBack) {
  guest(0).reboot();
  auto up = guest(0).up();
  ASSERT_TRUE(up) << up.error().message;
  EXPECT_TRUE(answers(0)) << daemon().log();
  expect_ping(0, kIp[1]);
}

TEST_F(QemuGuests, Crash_ADaemonKilledAndRestartedFindsItsLivingGuestsAgain) {
  daemon().kill();
  EXPECT_FALSE(guest(0).run(fmt::format("ping -c 1 -W 1 {}", kWireIp)).ok());
  auto restarted = daemon().start();
  ASSERT_TRUE(restarted) << restarted.error().message;
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(becomes(i, "running")) << daemon().show("guests").dump(1);
    EXPECT_TRUE(answers(i)) << daemon().log() << guest(i).log();
  }
  expect_ping(0, kIp[1]);
  expect_bulk_from_wire(guest(0), kIp[0]);
}

TEST_F(QemuGuests, Crash_QemuKilledLeavesAPortThatWaitsAndServesTheNextOneWithPackedRingsAnd64QueuePairs) {
  for (int i = 0; i < 2; ++i) {
    guest(i).kill();
    EXPECT_TRUE(becomes(i, "waiting")) << daemon().show("guests").dump(1);
    ASSERT_TRUE(boot(i, i == 0 ? QemuNic{.more = "packed=on", .queues = 64} : QemuNic{}));
  }
  for (int i = 0; i < 2; ++i) {
    auto up = guest(i).up();
    ASSERT_TRUE(up) << up.error().message;
    EXPECT_TRUE(answers(i)) << daemon().log();
  }
  const nlohmann::json rings = shown(0)["rings"];
  ASSERT_EQ(rings.size(), 128u) << rings.dump(1);
  for (const nlohmann::json& ring : rings) {
    EXPECT_TRUE(ring["running"] == true && ring["format"] == "packed") << ring.dump(1);
  }
  expect_bulk_from_wire(guest(0), kIp[0]);
  expect_bulk(guest(0), guest(1), kIp[1]);
}

TEST_F(QemuGuests, OnReservedHugePagesAreServedAsOnSmallOnes) {
  {
    auto huge = HugePages::reserve(kMemoryMb / 2);
    if (!huge) {
      GTEST_SKIP() << huge.error().message;
    }
    guest(1).kill();
    ASSERT_TRUE(becomes(1, "waiting"));
    ASSERT_TRUE(boot(1, {}, true));
    auto up = guest(1).up();
    ASSERT_TRUE(up) << up.error().message;
    ASSERT_TRUE(answers(1)) << daemon().log();
    const nlohmann::json regions = shown(1)["regions"];
    ASSERT_FALSE(regions.empty());
    for (const nlohmann::json& region : regions) {
      EXPECT_EQ(region["huge_pages"], true) << regions.dump(1);
    }
    expect_bulk(guest(0), guest(1), kIp[1]);
    expect_bulk(guest(1), guest(0), kIp[0]);
    guest(1).kill();
    ASSERT_TRUE(becomes(1, "waiting")) << "and nothing of ours keeps its pages";
  }
  ASSERT_TRUE(boot(1));
  auto up = guest(1).up();
  ASSERT_TRUE(up) << up.error().message;
}

}  // namespace
}  // namespace sluice::test
