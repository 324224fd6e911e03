// DPDK's virtio_user as a guest, in every form that it knows: what comes from the wire goes through the NIC,
// the daemon and the guest's rings to testpmd, which sends it back the same way. Every byte is compared, and
// nothing is lost while no ring is full.
#include <algorithm>
#include <fstream>

#include "test/guest/fixture.h"
#include "test/support/huge_pages.h"

namespace sluice::test {
namespace {

using Pages = TestpmdOptions::Pages;
constexpr const char* kMac = "52:54:00:00:00:01";
constexpr std::uint32_t kMemoryMb = 128;
constexpr std::uint64_t kHugePages = kMemoryMb / 2 + 16;

struct Variant {
  const char* name;
  VirtioUser device;
  Pages pages = Pages::kSmall;
  bool wide_vectors = false;  // what it is about needs AVX-512
};

void PrintTo(const Variant& variant, std::ostream* out) {
  *out << variant.name;
}

bool cpu_has(const std::string& flag) {
  std::ifstream cpus("/proc/cpuinfo");
  for (std::string line; std::getline(cpus, line);) {
    if (line.starts_with("flags")) {
      return (line + " ").find(" " + flag + " ") != std::string::npos;
    }
  }
  return false;
}

class VirtioUserTest : public GuestTest {
 protected:
  void SetUp() override {
    GuestTest::SetUp();
    if (std::string why = Testpmd::why_none(); !IsSkipped() && !why.empty()) {
      GTEST_SKIP() << why;
    }
  }

  void start_daemon(const VirtioUser& device) {
    start(nic_table() + guest_port("vm0", kMac,
                                   fmt::format("role = \"{}\"\nqueue_pairs = {}",
                                               device.server ? "client" : "server", device.queues)));
  }

  std::unique_ptr<Testpmd> start_guest(VirtioUser device, Pages pages = Pages::kSmall, bool wide = false) {
    device.socket = daemon().path("vm0.sock");
    device.mac = kMac;
    TestpmdOptions options{.vdevs = {vdev(device)},
                           .mode = "macswap",
                           .pages = pages,
                           .memory_mb = kMemoryMb,
                           .queues = device.queues,
                           .ring = device.queue_size};
    if (wide) {
      options.eal = {"--force-max-simd-bitwidth=512"};
    }
    auto guest = need(Testpmd::start(options));
    need(guest->ready());
    guest->command("start");
    return guest;
  }

  // It is what it was meant to be, and every ring has carried packets.
  void expect_form(const VirtioUser& device) {
    const nlohmann::json shown = this->guest("vm0");
    auto has = [&](const char* feature) {
      return std::ranges::find(shown["features"], nlohmann::json(feature)) != shown["features"].end();
    };
    EXPECT_EQ(has("RING_PACKED"), device.packed) << shown.dump(1);
    EXPECT_EQ(has("IN_ORDER"), device.in_order) << shown.dump(1);
    EXPECT_EQ(has("MRG_RXBUF"), device.mrg_rxbuf) << shown.dump(1);
    ASSERT_EQ(shown["rings"].size(), 2 * device.queues) << shown.dump(1);
    for (const nlohmann::json& ring : shown["rings"]) {
      EXPECT_EQ(ring["format"], device.packed ? "packed" : "split");
      EXPECT_EQ(ring["entries"], device.queue_size);
      EXPECT_GT(ring["packets"], 0) << ring.dump(1);
    }
  }

  void expect_echo(Testpmd& guest, const EchoOptions& options = {}) {
    ASSERT_TRUE(echo_works(pair(), options)) << troubles("vm0") << guest.log() << this->guest("vm0").dump(1);
    const std::string before = troubles("vm0");
    EchoResult result = echo(pair(), options);
    EXPECT_TRUE(result.perfect()) << result.text() << "\n" << guest.log();
    EXPECT_EQ(troubles("vm0"), before);
  }
};

class VirtioUserForm : public VirtioUserTest, public ::testing::WithParamInterface<Variant> {};

TEST_P(VirtioUserForm, EchoesEveryFrameUnchangedAndInOrder) {
  const Variant& variant = GetParam();
  if (variant.wide_vectors && !cpu_has("avx512f")) {
    GTEST_SKIP() << "this CPU has no AVX-512, and DPDK then takes the plain path";
  }
  start_daemon(variant.device);
  std::optional<HugePages> huge;  // after the daemon, which takes some when there are any
  if (variant.pages == Pages::kHuge) {
    auto reserved = HugePages::reserve(kHugePages);
    if (!reserved) {
      GTEST_SKIP() << reserved.error().message;
    }
    huge.emplace(std::move(*reserved));
  }
  auto guest = start_guest(variant.device, variant.pages, variant.wide_vectors);
  EchoOptions options;
  options.flows = variant.device.queues == 1 ? 1 : 64;
  expect_echo(*guest, options);
  expect_form(variant.device);
  EXPECT_EQ(guest->quit(), 0) << guest->log();
  EXPECT_TRUE(guest_becomes("vm0", "waiting")) << this->guest("vm0").dump(1);
}

INSTANTIATE_TEST_SUITE_P(
    Forms, VirtioUserForm,
    ::testing::Values(Variant{"Split", {.mrg_rxbuf = false}}, Variant{"SplitMergeable", {.mrg_rxbuf = true}},
                      Variant{"SplitInOrder", {.in_order = true, .mrg_rxbuf = false}},
                      Variant{"SplitInOrderMergeable", {.in_order = true, .mrg_rxbuf = true}},
                      Variant{"SplitVectorised", {.mrg_rxbuf = false, .vectorized = true}},
                      Variant{"SplitEightQueues", {.queues = 8}},
                      Variant{"SplitHugePages", {.mrg_rxbuf = true}, Pages::kHuge},
                      Variant{"Packed", {.packed = true, .mrg_rxbuf = false}},
                      Variant{"PackedMergeable", {.packed = true, .mrg_rxbuf = true}},
                      Variant{"PackedInOrder", {.packed = true, .in_order = true, .mrg_rxbuf = false}},
                      Variant{"PackedInOrderMergeable",
                              {.packed = true, .in_order = true, .mrg_rxbuf = true}},
                      Variant{"PackedVectorised",
                              {.packed = true, .in_order = true, .mrg_rxbuf = false, .vectorized = true},
                              Pages::kSmall,
                              true},
                      Variant{"Packed255", {.packed = true, .queue_size = 255}},
                      Variant{"PackedEightQueues", {.packed = true, .queues = 8}},
                      Variant{"PackedHugePages", {.packed = true, .mrg_rxbuf = true}, Pages::kHuge}),
    [](const auto& tested) { return tested.param.name; });

class VirtioUserLife : public VirtioUserTest {
 protected:
  // The guest listens; daemons come and go.
  void survive_daemons(VirtioUser device) {
    device.server = true;
    device.socket = daemon().path("vm0.sock");
    device.mac = kMac;
    auto guest = need(Testpmd::start({.vdevs = {vdev(device)}, .mode = "macswap", .memory_mb = kMemoryMb}));
    start_daemon(device);
    need(guest->ready());
    guest->command("start");
    expect_echo(*guest, {.frames = 1'000});
    for (int round = 0; round < 2; ++round) {
      daemon().kill();
      auto restarted = daemon().start();
      ASSERT_TRUE(restarted) << restarted.error().message;
      EXPECT_TRUE(guest_becomes("vm0", "running")) << this->guest("vm0").dump(1) << guest->log();
      expect_echo(*guest, {.frames = 1'000});
    }
    EXPECT_EQ(guest->quit(), 0) << guest->log();
  }

  void survive_stops(const VirtioUser& device) {
    start_daemon(device);
    auto guest = start_guest(device);
    for (int round = 0; round < 3; ++round) {
      expect_echo(*guest, {.frames = 500});
      guest->command("stop");
      guest->command("port stop 0");
      guest->command("port start 0");
      guest->command("start");
    }
    expect_echo(*guest, {.frames = 500});
  }
};

TEST_F(VirtioUserLife, APortStoppedAndStartedByTheGuestGoesOnWithSplitRings) {
  survive_stops({});
}

TEST_F(VirtioUserLife, APortStoppedAndStartedByTheGuestGoesOnWithPackedRings) {
  survive_stops({.packed = true});
}

TEST_F(VirtioUserLife, Crash_AGuestThatListensFindsTheNextDaemonWhenOneIsKilledWithSplitRings) {
  survive_daemons({});
}

TEST_F(VirtioUserLife, Crash_AGuestThatListensFindsTheNextDaemonWhenOneIsKilledWithPackedRings) {
  survive_daemons({.packed = true});
}

TEST_F(VirtioUserLife, Crash_AGuestKilledLeavesAPortThatServesTheNextOne) {
  start_daemon({});
  for (int round = 0; round < 3; ++round) {
    const bool packed = round % 2 == 1;
    auto guest = start_guest({.packed = packed});
    expect_echo(*guest, {.frames = 500});
    guest->kill();
    EXPECT_TRUE(guest_becomes("vm0", "waiting")) << this->guest("vm0").dump(1);
  }
}

TEST_F(VirtioUserLife, TwoGuestsTalkAndTheirFramesDoNotGoByTheWire) {
  constexpr const char* kMacs[] = {"52:54:00:00:00:01", "52:54:00:00:00:02"};
  constexpr std::uint64_t kEnough = 20'000;
  start(nic_table() + guest_port("vm0", kMacs[0]) + guest_port("vm1", kMacs[1]));
  std::unique_ptr<Testpmd> guests[2];
  for (int i = 0; i < 2; ++i) {
    const std::string name = fmt::format("vm{}", i);
    guests[i] =
        need(Testpmd::start({.name = name,
                             .vdevs = {vdev({.socket = daemon().path(name + ".sock"), .mac = kMacs[i]})},
                             .cpu = static_cast<std::uint32_t>(i),
                             .mode = "mac",
                             .memory_mb = kMemoryMb,
                             .more = {fmt::format("--eth-peer=0,{}", kMacs[1 - i])}}));
    need(guests[i]->ready());
  }
  guests[1]->command("start");
  guests[0]->command("start tx_first");
  // A few frames go to and fro for ever: none is lost, or there would soon be none.
  EXPECT_TRUE(eventually([&] {
    return guests[0]->stats().rx_packets > kEnough && guests[1]->stats().rx_packets > kEnough;
  })) << guests[0]->log()
      << guests[1]->log() << troubles("vm0") << troubles("vm1");
  EXPECT_EQ(daemon().counter("nic.nic0.tx_packets"), 0u);
}

}  // namespace
}  // namespace sluice::test
