// NIC -> app: the product as its users run it, beside bare AF_XDP and what else Linux offers, on one wire in
// one run.
//
// CPU 0 makes the packets (BPF_PROG_RUN, live frames), and the kernel does the wire's receive work, the XDP
// program and the copy there too. CPU 1 has the receiver: for Sluice that is daemon and app together. Rounds
// alternate, so that drift of the machine hits all alike; a figure is the median of its rounds, a ratio the
// median of the ratios of rounds that followed one another, a loss the sum over all. Rounds in which the host
// took a CPU away are done again, of all receivers alike but DPDK, which has one round.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <filesystem>
#include <map>

#include "bench/measure.h"
#include "bench/receivers.h"
#include "bench/system_calls.h"

namespace sluice::bench {
namespace {

template <typename T>
T or_die(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "app_bench: %s\n", result.error().message.c_str());
    std::exit(1);
  }
  return std::move(*result);
}

struct Options {
  bool json = false;
  int rounds = 15;
  std::uint64_t packets = 2'000'000;
  std::string daemon;
  std::string only;
  std::vector<std::string> profile;
  std::size_t bytes = 60;
  std::uint32_t batch = test::LiveFramesOptions{}.batch;
};

class AppBench {
 public:
  AppBench(const Options& options, Report& report)
      : options_(options),
        report_(report),
        nic_ns_(test::NetNs::create().value()),
        wire_ns_(test::NetNs::create().value()),
        pair_(test::VethPair::create(nic_ns_, wire_ns_).value()) {
    run_on(kReceiverCpu);
    nic_ns_.enter();
  }

  // A few receivers in turn, for as long as it takes to look at them with perf.
  void profile() {
    auto live = sender(options_.bytes);
    for (int round = 0; round < options_.rounds; ++round) {
      for (const std::string& name : options_.profile) {
        Round done = one_round(*live, name);
        fmt::print("{} {:.3f} M/s lost {}{}   ", name, done.packets_per_second / 1e6, done.lost(),
                   done.lost() != 0 && lost_where_.contains(name) ? " " + lost_where_[name].dump() : "");
        std::fflush(stdout);
      }
      fmt::print("\n");
    }
  }

  void run() {
    for (std::size_t bytes : {std::size_t{60}, std::size_t{1500}}) {
      if (wanted(fmt::format("traffic_{}B", bytes))) {
        compare(bytes);
      }
    }
    if (wanted("rules")) {
      compare_rules();
    }
    if (again_ != 0) {
      report_.note(fmt::format(
          "{} rounds were done again, for the host had taken a CPU away (steal in /proc/stat)", again_));
    }
  }

 private:
  bool wanted(const std::string& part) const {
    return options_.only.empty() || part.find(options_.only) != std::string::npos;
  }

  std::unique_ptr<test::LiveFrames> sender(std::size_t bytes, std::uint16_t source_ports = 0) {
    test::UdpFrame udp = pair_.to_nic();
    udp.destination_port = kUdpPort;
    udp.frame_bytes = bytes;
    test::LiveFramesOptions options;
    options.frame = test::udp_frame(udp);
    options.count = options_.packets;
    options.cpu = kSenderCpu;
    options.batch = options_.batch;
    options.source_ports = source_ports;
    return test::LiveFrames::create(pair_, options).value();
  }

  Round one_round(test::LiveFrames& live, const std::string& name) {
    nlohmann::json counters;  // of the try that counts
    const Round round = undisturbed([&] { return try_round(live, name, counters); }, again_);
    for (const auto& [key, value] : counters.items()) {
      if ((key.find("drop_") != std::string::npos || key.find("rx_ring_full") != std::string::npos ||
           key.find("fill_ring_empty") != std::string::npos) &&
          value != 0) {
        lost_where_[name][key] = lost_where_[name].value(key, std::uint64_t{0}) + value.get<std::uint64_t>();
      }
    }
    return round;
  }

  Round try_round(test::LiveFrames& live, const std::string& name, nlohmann::json& counters) {
    const std::string& netdev = pair_.options().nic_name;
    if (name == "owned" || name == "shared") {
      auto app = or_die(SluiceApp::open(options_.daemon, netdev, nic_ns_,
                                        name == "owned" ? QueueUse::kOwned : QueueUse::kShared));
      const Round round = measure(live, *app);
      counters = app->counters();
      return round;
    }
    auto receiver = or_die(name == "bare"  ? open_bare_af_xdp(netdev)
                           : name == "udp" ? open_udp()
                                           : open_tpacket(netdev));
    return measure(live, *receiver);
  }

  void compare(std::size_t bytes) {
    auto live = sender(bytes);
    std::map<std::string, std::vector<Round>> rounds;
    std::array<const char*, 3> names = {"bare", "owned", "shared"};
    for (int round = 0; round < options_.rounds; ++round) {
      for (const char* name : names) {
        rounds[name].push_back(one_round(*live, name));
      }
      std::rotate(names.begin(), names.begin() + 1, names.end());
    }
    for (const char* name : {"udp", "tpacket"}) {
      rounds[name].push_back(one_round(*live, name));
    }
    if (auto dpdk = measure_dpdk(nic_ns_, pair_.options().nic_name, *live)) {
      rounds["dpdk"].push_back(*dpdk);
    } else {
      report_.note(dpdk.error().message);
    }
    const Figure bare = median(rounds["bare"]);
    for (const char* name : {"owned", "shared"}) {
      const Figure ours = median(rounds[name]);
      report_.add(fmt::format("nic_to_app_{}_{}B", name, bytes), "M/s", ours.packets_per_second / 1e6,
                  bare.packets_per_second / 1e6, "bare AF_XDP", 0.97, false,
                  {{"ratio", paired_ratio(rounds[name], rounds["bare"])},
                   {"lost", ours.lost},
                   {"sent", ours.sent},
                   {"peer_lost", bare.lost},
                   {"lost_where", lost_where_[name]}});
    }
    const Figure owned = median(rounds["owned"]);
    const std::map<std::string, std::string> peers = {
        {"udp", "UDP recvmmsg"}, {"tpacket", "TPACKET_V3"}, {"dpdk", "DPDK net_af_xdp"}};
    for (const auto& [key, peer_name] : peers) {
      if (rounds.contains(key)) {
        const Figure peer = median(rounds[key]);
        report_.add(fmt::format("nic_to_app_owned_{}B", bytes), "M/s", owned.packets_per_second / 1e6,
                    peer.packets_per_second / 1e6, peer_name, 0, false,
                    {{"peer_lost", peer.lost}, {"peer_sent", peer.sent}});
      }
    }
    syscalls(*live, bytes);
  }

  // A round of its own: counting costs a little.
  void syscalls(test::LiveFrames& live, std::size_t bytes) {
    auto app = or_die(SluiceApp::open(options_.daemon, pair_.options().nic_name, nic_ns_, QueueUse::kOwned));
    auto counter = SystemCallCounter::start({app->daemon_pid(), ::getpid()});
    if (!counter) {
      report_.note(fmt::format("system calls per packet: {}", counter.error().message));
      return;
    }
    Round round = measure(live, *app);
    const double per_packet = static_cast<double>((*counter)->count()) /
                              static_cast<double>(std::max<std::uint64_t>(round.received, 1));
    report_.add(fmt::format("system_calls_per_packet_{}B", bytes), "  ", per_packet, 1.0, "one per packet",
                0.05, true);
  }

  // As many rules as asked for, all of one mask, traffic spread over them: what the rules cost an app end to
  // end.
  void compare_rules() {
    std::map<int, std::vector<Round>> rounds;
    for (int round = 0; round < options_.rounds; ++round) {
      for (int rules : {10, 10'000}) {
        auto live = sender(60, static_cast<std::uint16_t>(rules));
        std::string text;
        for (int i = 0; i < rules; ++i) {
          text += fmt::format(
              "[[rule]]\nmatch = \"ip_proto udp src_port {} dst_port {}\"\nto = \"app\"\npriority = 200\n",
              4000 + i, kUdpPort);
        }
        rounds[rules].push_back(undisturbed(
            [&] {
              auto app = or_die(SluiceApp::open(options_.daemon, pair_.options().nic_name, nic_ns_,
                                                QueueUse::kOwned, text));
              return measure(*live, *app);
            },
            again_));
      }
    }
    const Figure few = median(rounds[10]), many = median(rounds[10'000]);
    report_.add("rules_10000_vs_10", "ns ", 1e9 / many.packets_per_second, 1e9 / few.packets_per_second,
                "10 rules", 1.1, true,
                {{"ratio", paired_ratio(rounds[10], rounds[10'000])}, {"lost", many.lost + few.lost}});
  }

  const Options& options_;
  Report& report_;
  test::NetNs nic_ns_, wire_ns_;
  test::VethPair pair_;
  std::uint32_t again_ = 0;  // rounds
  std::map<std::string, nlohmann::json> lost_where_{{"owned", nlohmann::json::object()},
                                                    {"shared", nlohmann::json::object()}};
};

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  using namespace sluice::bench;
  Options options;
  // Beside us in the build directory.
  options.daemon =
      std::filesystem::canonical("/proc/self/exe").parent_path().parent_path() / "cmd" / "sluiced";
  CLI::App app("NIC -> app: packets per second beside bare AF_XDP, UDP, TPACKET_V3 and DPDK.");
  app.add_flag("--json", options.json);
  app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 99))->capture_default_str();
  app.add_option("--packets", options.packets, "per round")->capture_default_str();
  app.add_option("--daemon", options.daemon)->check(CLI::ExistingFile)->capture_default_str();
  app.add_option("--only", options.only, "a part of the bench by name: traffic_60B, traffic_1500B or rules");
  app.add_option("--ring", ring_entries, "of Sluice's and of bare AF_XDP's sockets")->capture_default_str();
  app.add_option("--idle", worker_idle, "of Sluice's worker")
      ->check(CLI::IsMember({"adaptive", "awake"}))
      ->capture_default_str();
  app.add_option("--profile", options.profile, "only these receivers, in turn, rate by rate")
      ->check(CLI::IsMember({"bare", "owned", "shared", "udp", "tpacket"}));
  app.add_option("--batch", options.batch, "frames that the wire brings at a time")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--bytes", options.bytes, "of a frame, with --profile")->check(CLI::Range(60, 1500));
  CLI11_PARSE(app, argc, argv);
  if (std::string why = sluice::test::why_no_root_and_xdp(); !why.empty()) {
    std::fprintf(stderr, "app_bench: %s\n", why.c_str());
    return 2;
  }
  Report report(options.json);
  AppBench bench(options, report);
  if (!options.profile.empty()) {
    bench.profile();
    return 0;
  }
  bench.run();
  return report.finish();
}
