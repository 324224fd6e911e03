#include "bench/latency_peers.h"

#include <time.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>

#include "bench/latency_client.h"
#include "bench/latency_frame.h"
#include "bench/measure.h"
#include "test/guest/testpmd.h"
#include "test/support/daemon.h"
#include "test/support/eventually.h"
#include "test/support/process.h"
#include "test/system/fixture.h"

namespace sluice::bench {

namespace {

constexpr test::Mac kGuestMac{0x52, 0x54, 0, 0, 0, 0x01}, kTapMac{0x52, 0x54, 0, 0, 0, 0xfe},
    kNobodysMac{0x02, 0, 0, 0, 0, 0x99};
constexpr const char* kGuestIp = "10.77.0.10";
// Of a subnet that nic0 has no address in, so that what the tap's echo sends goes by the tap.
constexpr const char *kTapIp = "10.78.0.1", *kWireIpForTap = "10.78.0.2";
constexpr const char *kLoadIp = "10.99.0.1", *kLoadIpForTap = "10.98.0.1";
constexpr std::uint16_t kLoadSourcePort = 4999;
constexpr std::uint32_t kDpdkRing = 2048;
constexpr const char* kTurnsAround = "5tswap";  // testpmd's mode: MAC and IP addresses and UDP ports

std::uint64_t cpu_ns_of(pid_t pid) {
  clockid_t clock;
  timespec time{};
  if (pid <= 0 || ::clock_getcpuclockid(pid, &clock) != 0 || ::clock_gettime(clock, &time) != 0) {
    return 0;
  }
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(time.tv_nsec);
}

// Who is there ends before what carries its packets.
class Peer final : public EchoPeer {
 public:
  ~Peer() override {
    echo = {};
    if (testpmd) {
      testpmd->quit();
      testpmd.reset();
    }
    if (daemon && daemon->running()) {
      daemon->stop();
    }
  }
  std::uint64_t daemon_cpu_ns() override { return daemon ? cpu_ns_of(daemon->pid()) : 0; }
  std::uint64_t echo_cpu_ns() override { return cpu_ns_of(testpmd ? testpmd->pid() : echo.pid()); }
  nlohmann::json counters() override { return daemon ? daemon->show("counters") : nlohmann::json::object(); }
  std::string words() { return (daemon ? daemon->log() : "") + (testpmd ? testpmd->log() : ""); }

  std::optional<test::Daemon> daemon;
  std::unique_ptr<test::Testpmd> testpmd;
  test::Process echo;
};

std::string daemon_config(const EchoSetup& setup) {
  std::string config = fmt::format("log = \"warning\"\nworkers = [ {{ {}idle = \"{}\" }} ]\n",
                                   setup.pinned ? fmt::format("cpu = {}, ", kReceiverCpu) : "", setup.idle) +
                       test::nic_table();
  switch (setup.kind) {
    case EchoKind::kApp:
      return config + test::app_port("echo") + test::udp_rule(kEchoPort, "echo");
    case EchoKind::kGuest:
    case EchoKind::kGuestPolls:
      return config + fmt::format("[port.vm]\ntype = \"guest\"\nsocket = \"@/vm.sock\"\nmac = \"{}\"\n",
                                  test::to_string(kGuestMac));
    case EchoKind::kTap:
      return config + fmt::format(
                          "[port.tap]\ntype = \"tap\"\nnetdev = \"host0\"\nmac = \"{}\"\n"
                          "address = \"{}/24\"\n",
                          test::to_string(kTapMac), kTapIp);
    default:
      return config;
  }
}

Result<std::unique_ptr<test::Testpmd>> start_testpmd(const test::NetNs& ns, std::uint32_t cpu,
                                                     std::uint32_t ring, const std::string& vdev) {
  test::TestpmdOptions options{.name = "latency", .vdevs = {vdev}, .cpu = cpu, .mode = kTurnsAround};
  options.ring = ring;
  options.memory_mb = 192;
  options.mbufs = 16384;
  options.ns = &ns;
  auto testpmd = test::Testpmd::start(options);
  SLUICE_TRY(testpmd);
  if (auto ready = (*testpmd)->ready(); !ready) {
    return std::unexpected(ready.error());
  }
  (*testpmd)->command("start");
  return testpmd;
}

}  // namespace

Result<std::unique_ptr<EchoGround>> EchoGround::create() {
  auto nic = test::NetNs::create(), wire = test::NetNs::create();
  SLUICE_TRY(nic);
  SLUICE_TRY(wire);
  std::unique_ptr<EchoGround> ground(new EchoGround(std::move(*nic), std::move(*wire)));
  auto pair = test::VethPair::create(ground->nic_, ground->wire_);
  SLUICE_TRY(pair);
  ground->pair_ = *pair;
  SLUICE_TRY(ground->set_up_addresses());
  return ground;
}

Result<void> EchoGround::set_up_addresses() {
  const test::VethOptions& links = pair_.options();
  const auto neighbour = [](const std::string& ip, const test::Mac& mac, const std::string& netdev) {
    return fmt::format("ip neigh replace {} lladdr {} dev {} nud permanent; ", ip, test::to_string(mac),
                       netdev);
  };
  const test::Finished wire = wire_.command(
      fmt::format("set -e; ip addr add {}/24 dev {}; ", kWireIpForTap, links.wire_name) +
      neighbour(links.nic_ip, links.nic_mac, links.wire_name) +
      neighbour(kGuestIp, kGuestMac, links.wire_name) + neighbour(kTapIp, kTapMac, links.wire_name));
  const test::Finished nic =
      nic_.command("set -e; " + neighbour(links.wire_ip, links.wire_mac, links.nic_name) +
                   fmt::format("ip route add {}/32 dev {}; ", kLoadIp, links.nic_name) +
                   neighbour(kLoadIp, kNobodysMac, links.nic_name));
  if (!wire.ok() || !nic.ok()) {
    return fail("cannot set up addresses: {}{}", wire.output, nic.output);
  }
  return {};
}

std::string EchoGround::ip(EchoKind kind) const {
  switch (kind) {
    case EchoKind::kGuest:
    case EchoKind::kGuestPolls:
      return kGuestIp;
    case EchoKind::kTap:
      return kTapIp;
    default:
      return pair_.options().nic_ip;
  }
}

test::Frame EchoGround::load_frame(EchoKind kind) const {
  test::UdpFrame udp = pair_.to_nic();
  udp.destination = kind == EchoKind::kTap                                      ? kTapMac
                    : kind == EchoKind::kGuest || kind == EchoKind::kGuestPolls ? kGuestMac
                                                                                : udp.destination;
  udp.source = kNobodysMac;
  udp.source_ip = kind == EchoKind::kTap ? kLoadIpForTap : kLoadIp;
  udp.destination_ip = ip(kind);
  udp.source_port = kLoadSourcePort;
  udp.destination_port = kEchoPort;
  return test::udp_frame(udp);
}

// "  wire0: bytes packets ..." of received ones.
std::uint64_t EchoGround::answered() const {
  return wire_.in([&] {
    std::ifstream table("/proc/thread-self/net/dev");
    for (std::string line; std::getline(table, line);) {
      std::istringstream words(line);
      std::string name;
      std::uint64_t bytes = 0, packets = 0;
      if (words >> name >> bytes >> packets && name == pair_.options().wire_name + ":") {
        return packets;
      }
    }
    return std::uint64_t{0};
  });
}

Result<std::unique_ptr<EchoPeer>> EchoGround::start_echo(const EchoSetup& setup) {
  auto peer = std::make_unique<Peer>();
  if (setup.is_sluice()) {
    peer->daemon.emplace(nic_);
    SLUICE_TRY(peer->daemon->start(daemon_config(setup)));
  }
  std::vector<std::string> argv = {LATENCY_ECHO};
  const bool beside_client = setup.is_sluice();
  if (setup.pinned) {
    argv.insert(argv.end(), {"--cpu", std::to_string(beside_client ? kSenderCpu : kReceiverCpu)});
  }
  switch (setup.kind) {
    case EchoKind::kDpdk:
    case EchoKind::kGuestPolls: {
      const bool dpdk = setup.kind == EchoKind::kDpdk;
      auto testpmd = start_testpmd(
          nic_, dpdk ? kReceiverCpu : kSenderCpu, dpdk ? kDpdkRing : 256,
          dpdk ? fmt::format("net_af_xdp0,iface={},start_queue=0,queue_count=1", pair_.options().nic_name)
               : test::vdev({.socket = peer->daemon->path("vm.sock"), .mac = test::to_string(kGuestMac)}));
      SLUICE_TRY(testpmd);
      peer->testpmd = std::move(*testpmd);
      return peer;
    }
    case EchoKind::kTap: {
      const test::Finished added = nic_.command(
          fmt::format("set -e; ip neigh replace {} lladdr {} dev host0 nud permanent; ip route add {}/32 dev "
                      "host0; ip neigh replace {} lladdr {} dev host0 nud permanent",
                      kWireIpForTap, test::to_string(pair_.options().wire_mac), kLoadIpForTap, kLoadIpForTap,
                      test::to_string(kNobodysMac)));
      if (!added.ok()) {
        return fail("cannot set up the tap's addresses: {}", added.output);
      }
      argv.emplace_back("kernel");
      break;
    }
    case EchoKind::kApp:
      argv.insert(argv.end(),
                  {"app", peer->daemon->path("echo.sock"), "--spin-us", std::to_string(setup.spin_us)});
      break;
    case EchoKind::kGuest:
      argv.insert(argv.end(), {"guest", peer->daemon->path("vm.sock")});
      break;
    case EchoKind::kKernel:
      argv.emplace_back("kernel");
      break;
  }
  auto echo = nic_.spawn(argv);
  SLUICE_TRY(echo);
  peer->echo = std::move(*echo);
  return peer;
}

Result<std::unique_ptr<EchoPeer>> EchoGround::start(const EchoSetup& setup) {
  auto peer = start_echo(setup);
  SLUICE_TRY(peer);
  LatencyClient client(wire_, ip(setup.kind));
  if (!test::eventually([&] { return client.ask(); }, std::chrono::seconds(10))) {
    return fail("it does not answer: {}", static_cast<Peer&>(**peer).words());
  }
  return peer;
}

}  // namespace sluice::bench
