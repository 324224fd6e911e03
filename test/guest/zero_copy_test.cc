// AF_XDP in the driver's zero-copy mode: the whole daemon in a virtual machine whose NIC's driver
// (virtio_net, Linux 6.16 or later) can do it, on a tap device that is its wire. Beside the kernel it serves
// a program and a guest, which is testpmd in the same machine.
//
//   wire0 (tap) 10.77.0.2 === QEMU: eth0 10.77.0.1 --- sluiced --- udp_echo, vm0 (testpmd)
#include <arpa/inet.h>
#include <net/if.h>
#include <sys/socket.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>

#include "test/guest/fixture.h"
#include "test/guest/qemu_guest.h"
#include "test/support/ping.h"

namespace sluice::test {
namespace {

constexpr const char* kNic = R"([daemon]
control = "/run/control.sock"
workers = [ { cpu = 0 } ]
[nic.eth0]
ring = 512
)";
constexpr const char* kZeroCopy = "mode = \"zerocopy\"\n";
// No budget: the machine's two CPUs take turns on one thread of the emulator, and its kernel is not told of
// the time that is taken from it. The ports would be charged for it.
constexpr const char* kPort = R"([port.echo]
type = "app"
socket = "/run/echo.sock"
mac = "02:00:00:00:00:01"
pages = 1024
stall_budget_us = 0
[[rule]]
match = "ip_proto udp dst_port 7"
to = "echo"
)";
constexpr const char* kGuestPort = R"([port.vm0]
type = "guest"
socket = "/run/vm0.sock"
mac = "52:54:00:00:00:01"
stall_budget_us = 0
)";
// The driver's own zeroes (zero_copy_flaw() in port/nic/nic_info.cc): without randomised addresses it looks
// for its header shortly behind 1 GiB, and there is memory now that nobody uses and that is zero.
constexpr const char* kHeaderOfZeroes = "nokaslr memmap=64M$0x40000000";
constexpr const char* kSluicectl = "sluicectl --socket /run/control.sock ";

// What testpmd loads by itself, and so is named nowhere in it.
std::vector<std::string> testpmd_files() {
  std::vector<std::string> files{"/usr/bin/dpdk-testpmd:bin/dpdk-testpmd"};
  for (const auto& entry : std::filesystem::recursive_directory_iterator("/usr/lib/x86_64-linux-gnu/dpdk")) {
    const std::string name = entry.path().filename();
    for (const char* wanted : {"librte_net_virtio.so.", "librte_mempool_ring.so.", "librte_bus_vdev.so."}) {
      if (name.starts_with(wanted)) {
        files.push_back(entry.path());
      }
    }
  }
  return files;
}

struct Machine {
  TempFolder folder;
  NetNs wire_ns = need(NetNs::create());
  std::unique_ptr<QemuGuest> machine;
};

class ZeroCopy : public ::testing::Test {
 protected:
  void SetUp() override {
    SLUICE_NEED_ROOT_AND_XDP();
    if (std::string why = QemuGuest::why_none(); !why.empty()) {
      GTEST_SKIP() << why;
    }
    bed_ = std::make_unique<Machine>();
  }
  void TearDown() override {
    if (bed_ && bed_->machine && HasFailure()) {
      std::fprintf(stderr, "%s\nthe daemon's log:\n%s\n", machine().log().c_str(),
                   machine().run("cat /tmp/log /tmp/echo /tmp/testpmd").output.c_str());
      for (const char* what :
           {"queues", "ports", "guests", "counters"}) {  // a machine that died says nothing
        std::fprintf(stderr, "%s\n", machine().run(std::string(kSluicectl) + "show " + what).output.c_str());
      }
    }
  }

  QemuGuest& machine() { return *bed_->machine; }
  const NetNs& wire_ns() { return bed_->wire_ns; }
  Wire wire() {
    int ifindex = wire_ns().in([] { return static_cast<int>(::if_nametoindex("wire0")); });
    return Wire(wire_ns(), ifindex, {2, 0, 0, 0, 0, 2});
  }

  // The machine with the daemon in it. Skips when its kernel cannot be had.
  void boot(const std::string& config, std::vector<std::string> files) {
    const std::string config_path = bed_->folder / "sluice.toml";
    std::ofstream(config_path) << config;
    files.insert(files.end(),
                 {std::string(SLUICED) + ":bin/sluiced", std::string(SLUICE_DOOR) + ":bin/sluice-door",
                  std::string(SLUICECTL) + ":bin/sluicectl", std::string(UDP_ECHO) + ":bin/udp_echo",
                  config_path + ":etc/sluice.toml"});
    auto image = guest_image(kZeroCopySuite, bed_->folder.path(), files);
    if (!image) {
      GTEST_SKIP() << image.error().message;
    }
    Finished tap = wire_ns().command(
        "set -e; ip tuntap add wire0 mode tap; ip link set wire0 address 02:00:00:00:00:02; "
        "ip addr add 10.77.0.2/24 dev wire0; ip link set wire0 up");
    ASSERT_TRUE(tap.ok()) << tap.output;
    bed_->machine = need(QemuGuest::start(
        {.image = *image,
         .address = "10.77.0.1/24",
         // Without the platform's IOMMU the driver has no device to map memory for.
         .more = {"-netdev", "tap,id=w,ifname=wire0,script=no,downscript=no,vhost=off", "-device",
                  "virtio-net-pci,netdev=w,mac=02:00:00:00:00:01,iommu_platform=on,disable-legacy=on"},
         .ns = &wire_ns(),
         .kernel_words = kHeaderOfZeroes,
         .memory_mb = 1536,
         .cpus = 2}));
    need(machine().up());
    machine().run("sluiced --config /etc/sluice.toml >/tmp/log 2>&1 &");
    const bool ready = eventually([&] { return machine().run(std::string(kSluicectl) + "version").ok(); },
                                  std::chrono::seconds(60));
    ASSERT_TRUE(ready);
  }

  nlohmann::json show(const std::string& what) {
    Finished shown = machine().run(kSluicectl + ("--json show " + what));
    nlohmann::json parsed = nlohmann::json::parse(shown.output, nullptr, false);
    need(!parsed.is_discarded(), shown.output);
    return parsed;
  }
  std::uint64_t counter(const std::string& name) { return show("counters").at(name).get<std::uint64_t>(); }

  void expect_queues_in(const std::string& mode) {
    const nlohmann::json nics = show("nics");
    EXPECT_TRUE(nics.size() == 1 && nics[0]["af_xdp"] == mode) << nics.dump(1);
    const nlohmann::json queues = show("queues");
    EXPECT_FALSE(queues.empty());
    for (const nlohmann::json& queue : queues) {
      EXPECT_EQ(queue["mode"], mode) << queues.dump(1);
    }
  }
  void start_program() {
    machine().run("udp_echo /run/echo.sock --port 7 >/tmp/echo 2>&1 &");
    ASSERT_TRUE(eventually([&] { return show("ports")[0]["state"] == "attached"; }));
  }
  bool driver_is_a_module() { return machine().run("test -e /sys/module/virtio_net/initstate").ok(); }
  void expect_log(const std::string& words) {
    const std::string log = machine().run("cat /tmp/log").output;
    EXPECT_NE(log.find(words), std::string::npos) << words << " in:\n" << log;
  }

  // Datagrams to the program in the machine and back, each with words of its own.
  void expect_program_echoes(int datagrams) {
    UniqueFd fd = udp_socket(wire_ns(), "10.77.0.2", 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(7);
    ::inet_pton(AF_INET, "10.77.0.1", &to.sin_addr);
    ASSERT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
    std::mt19937 random(3);
    for (int i = 0; i < datagrams; ++i) {
      std::string sent(1 + random() % 1472, '\0'), came(2048, '\0');
      std::generate(sent.begin(), sent.end(), [&] { return static_cast<char>(random()); });
      ASSERT_EQ(::send(fd.get(), sent.data(), sent.size(), 0), static_cast<ssize_t>(sent.size()));
      ssize_t got = -1;
      ASSERT_TRUE(eventually([&] {
        got = ::recv(fd.get(), came.data(), came.size(), MSG_DONTWAIT);
        return got >= 0;
      })) << "datagram "
          << i << " of " << sent.size() << " bytes does not come back";
      came.resize(static_cast<std::size_t>(got));
      ASSERT_EQ(came, sent) << "datagram " << i;
    }
  }

  // All but the one that was on its way when it was stopped.
  void expect_answered(const PingResult& pinged) {
    EXPECT_GT(pinged.received, 0u) << pinged.output;
    EXPECT_GE(pinged.received + 1, pinged.sent) << pinged.output;
  }

  std::unique_ptr<Machine> bed_;
};

TEST_F(ZeroCopy, AProgramAndTheKernelShareANicWhoseDriverWritesStraightIntoTheDaemonsPages) {
  boot(std::string(kNic) + kZeroCopy + kPort, {});
  if (IsSkipped() || HasFatalFailure()) {
    return;
  }
  expect_queues_in("zerocopy");
  ASSERT_NO_FATAL_FAILURE(start_program());
  auto kernel = need(Ping::start(wire_ns(), "10.77.0.1", 100));
  expect_program_echoes(300);
  expect_answered(kernel.stop());
  EXPECT_EQ(counter("port.echo.rx_packets"), 300u);
  EXPECT_EQ(counter("port.echo.tx_packets"), 300u);
  if (driver_is_a_module()) {
    expect_log("eth0: the driver virtio_net, loaded as a module");
  }
}

TEST_F(ZeroCopy, AProgramAGuestAndTheKernelShareSuchANic) {
  if (std::string why = Testpmd::why_none(); !why.empty()) {
    GTEST_SKIP() << why;
  }
  boot(std::string(kNic) + kZeroCopy + kPort + kGuestPort, testpmd_files());
  if (IsSkipped() || HasFatalFailure()) {
    return;
  }
  expect_queues_in("zerocopy");
  ASSERT_NO_FATAL_FAILURE(start_program());
  machine().run(
      "sleep 9999 | dpdk-testpmd --lcores 0@1,1@1 --no-pci --no-telemetry --no-huge --no-shconf -m 128 "
      "--vdev "
      "net_virtio_user0,path=/run/vm0.sock,mac=52:54:00:00:00:01,queue_size=256 -- --no-mlockall "
      "--forward-mode=macswap --total-num-mbufs=4096 --rxd=256 --txd=256 >/tmp/testpmd 2>&1 &");
  const bool running =
      eventually([&] { return show("guests")[0]["state"] == "running"; }, std::chrono::seconds(60));
  ASSERT_TRUE(running) << machine().run("cat /tmp/testpmd").output;
  auto kernel = need(Ping::start(wire_ns(), "10.77.0.1", 100));
  ASSERT_TRUE(echo_works(wire()));
  EchoResult result = echo(wire(), {.frames = 1'000, .window = 16});
  EXPECT_TRUE(result.perfect()) << result.text();
  expect_program_echoes(100);
  expect_answered(kernel.stop());
  expect_queues_in("zerocopy");
}

TEST_F(ZeroCopy, IsNotTakenUnaskedFromADriverThatSendsWithHeadersFromElsewhere) {
  boot(std::string(kNic) + kPort, {});
  if (IsSkipped() || HasFatalFailure()) {
    return;
  }
  if (!driver_is_a_module()) {
    GTEST_SKIP() << "this kernel has virtio_net built in";
  }
  expect_queues_in("copy");
  expect_log("eth0: copy mode: the driver virtio_net");
  ASSERT_NO_FATAL_FAILURE(start_program());
  expect_program_echoes(20);
}

}  // namespace
}  // namespace sluice::test
