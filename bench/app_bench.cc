// NIC -> app: the product as its users run it, beside bare AF_XDP and what else Linux offers, on one wire in
// one run.
//
// CPU 0 makes the packets (BPF_PROG_RUN, live frames), and the kernel does the wire's receive work, the XDP
// program and the copy there too. CPU 1 has the receiver: for Sluice that is daemon and app together. The
// rows at default settings pin no receiver but DPDK's. Rounds alternate, so that drift of the machine hits
// all alike; a figure is the median of its rounds, a ratio the median of the ratios of rounds that followed
// one another, a loss the sum over all. Rounds in which the host took a CPU away are done again.
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

// Who is Sluice.
const std::map<std::string, SluiceAppOptions> kOurs = {{"owned", {.use = QueueUse::kOwned}},
                                                       {"shared", {.use = QueueUse::kShared}},
                                                       {"default", {.settings = Settings::kDefault}}};

struct Row {
  const char *ours, *peer, *peer_name;
  double goal;  // 0: none
};
constexpr Row kRows[] = {
    {"owned", "bare", "bare AF_XDP", 0.97},        {"shared", "bare", "bare AF_XDP", 0.97},
    {"owned", "bare_rule", "bare AF_XDP+rule", 0}, {"shared", "bare_rule", "bare AF_XDP+rule", 0},
    {"owned", "dpdk", "DPDK net_af_xdp", 0},       {"owned", "udp", "UDP recvmmsg", 0},
    {"owned", "tpacket", "TPACKET_V3", 0},         {"default", "default_bare", "bare AF_XDP", 0},
    {"default", "dpdk", "DPDK net_af_xdp", 0},     {"default", "default_udp", "UDP recvmmsg", 0},
};

// While it lives: this thread and what it starts run on the receiver's CPU, or anywhere.
class Pinned {
 public:
  explicit Pinned(bool anywhere) {
    if (anywhere) {
      run_anywhere();
    }
  }
  ~Pinned() { run_on(kReceiverCpu); }
  Pinned(const Pinned&) = delete;
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
        const Round done = or_die(one_round(*live, name));
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

  Result<Round> one_round(test::LiveFrames& live, const std::string& name) {
    nlohmann::json counters;  // of the try that counts
    auto round = undisturbed([&] { return try_round(live, name, counters); }, again_);
    for (const auto& [key, value] : counters.items()) {
      if ((key.find("drop_") != std::string::npos || key.find("rx_ring_full") != std::string::npos ||
           key.find("fill_ring_empty") != std::string::npos) &&
          value != 0) {
        nlohmann::json& where = lost_where_[name];
        where[key] = (where.contains(key) ? where[key].get<std::uint64_t>() : 0) + value.get<std::uint64_t>();
      }
    }
    return round;
  }

  Result<Round> try_round(test::LiveFrames& live, const std::string& name, nlohmann::json& counters) {
    const std::string& netdev = pair_.options().nic_name;
    if (name == "dpdk") {
      return measure_dpdk(nic_ns_, netdev, live);
    }
    const bool anywhere = name.starts_with("default");
    const Pinned pinned(anywhere);
    if (const auto ours = kOurs.find(name); ours != kOurs.end()) {
      auto app = or_die(SluiceApp::open(options_.daemon, netdev, nic_ns_, ours->second));
      const Round round = measure(live, *app);
      counters = app->counters();
      return round;
    }
    BareOptions bare{.ring_entries = anywhere ? kDefaultRingEntries : ring_entries};
    if (name == "bare_rule") {
      bare.rule_port = kUdpPort;
    }
    auto receiver = or_die(name.ends_with("udp") ? open_udp()
                           : name == "tpacket"   ? open_tpacket(netdev)
                                                 : open_bare_af_xdp(netdev, bare));
    return measure(live, *receiver);
  }

  void compare(std::size_t bytes) {
    auto live = sender(bytes);
    Rounds rounds({"bare", "bare_rule", "owned", "shared", "default", "default_bare", "default_udp", "dpdk",
                   "udp", "tpacket"});
    rounds.run(options_.rounds, [&](const std::string& name) { return one_round(*live, name); });
    for (const auto& [name, why] : rounds.left_out()) {
      report_.note(fmt::format("{}: {}", name, why));
    }
    for (const Row& row : kRows) {
      if (rounds.has(row.ours) && rounds.has(row.peer)) {
        report_.add_rates(fmt::format("nic_to_app_{}_{}B", row.ours, bytes), rounds.of(row.ours),
                          rounds.of(row.peer), row.peer_name, row.goal,
                          {{"lost_where", lost_where_[row.ours]}});
      }
    }
    syscalls(*live, bytes);
  }

  // A round of its own: counting costs a little.
  void syscalls(test::LiveFrames& live, std::size_t bytes) {
    auto app = or_die(SluiceApp::open(options_.daemon, pair_.options().nic_name, nic_ns_, kOurs.at("owned")));
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
        rounds[rules].push_back(*undisturbed(
            [&] {
              auto app = or_die(SluiceApp::open(options_.daemon, pair_.options().nic_name, nic_ns_,
                                                {.use = QueueUse::kOwned, .extra_rules = text}));
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
  std::map<std::string, nlohmann::json> lost_where_;
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
      ->check(CLI::IsMember(
          {"bare", "bare_rule", "owned", "shared", "default", "default_bare", "dpdk", "udp", "tpacket"}));
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
