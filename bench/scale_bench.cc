// What ports that nobody uses cost one app: its rate with 0, 64 and 500 idle app ports and as many idle guest
// ports, in turn; and what each such port takes of the machine. Real daemon, a wire in namespaces of its own.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>

#include "base/check.h"
#include "bench/measure.h"
#include "bench/receivers.h"
#include "port/app/app_peer.h"
#include "test/support/eventually.h"
#include "test/system/processes.h"
#include "test/vhost/mock_front_end.h"

namespace sluice::bench {
namespace {

struct Options {
  int rounds = 5;
  std::uint64_t packets = 2'000'000;
  std::string daemon;
  bool json = false;
};

template <typename T>
T or_die(Result<T> made) {
  SLUICE_CHECK(made, "{}", made.error().message);
  return std::move(*made);
}

// Sockets of the idle ports.
class Folder {
 public:
  Folder() {
    char name[] = "/tmp/sluice-scale-XXXXXX";
    SLUICE_CHECK(::mkdtemp(name) != nullptr, "mkdtemp: errno {}", errno);
    path_ = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string socket(const std::string& port) const { return path_ + "/" + port + ".sock"; }

 private:
  std::string path_;
};

struct Resources {
  double descriptors = 0, resident_kib = 0, threads = 0, processes = 0;
};

class ScaleBench {
 public:
  ScaleBench(const Options& options, Report& report)
      : options_(options),
        report_(report),
        nic_ns_(or_die(test::NetNs::create())),
        wire_ns_(or_die(test::NetNs::create())),
        pair_(or_die(test::VethPair::create(nic_ns_, wire_ns_))) {}

  void run() {
    compare_rates();
    // A port and who is attached to it, each by the difference of two daemons.
    const Resources none = resources(0, 0, 0, 0);
    constexpr int kIdle = 500, kAttached = 100;
    report_resources("idle_app_port", kIdle, none, resources(kIdle, 0, 0, 0));
    report_resources("idle_guest_port", kIdle, none, resources(0, kIdle, 0, 0));
    report_resources("attached_idle_app", kAttached, resources(kAttached, 0, 0, 0),
                     resources(kAttached, 0, kAttached, 0));
    report_resources("attached_idle_guest", kAttached, resources(0, kAttached, 0, 0),
                     resources(0, kAttached, 0, kAttached));
  }

 private:
  std::string ports(int apps, int guests) const {
    std::string text;
    for (int i = 0; i < apps; ++i) {
      const std::string name = fmt::format("idle-app{}", i);
      text +=
          fmt::format("[port.{}]\ntype = \"app\"\nsocket = \"{}\"\npages = 64\n", name, folder_.socket(name));
    }
    for (int i = 0; i < guests; ++i) {
      const std::string name = fmt::format("idle-vm{}", i);
      text +=
          fmt::format("[port.{}]\ntype = \"guest\"\nsocket = \"{}\"\nmac = \"52:54:00:01:{:02x}:{:02x}\"\n",
                      name, folder_.socket(name), i / 256, i % 256);
    }
    return text;
  }

  std::unique_ptr<SluiceApp> daemon_with(int apps, int guests) {
    return or_die(SluiceApp::open(options_.daemon, pair_.options().nic_name, nic_ns_,
                                  {.extra_rules = ports(apps, guests)}));
  }

  void compare_rates() {
    test::UdpFrame udp = pair_.to_nic();
    udp.destination_port = kUdpPort;
    udp.frame_bytes = 60;
    test::LiveFramesOptions live_options;
    live_options.frame = test::udp_frame(udp);
    live_options.count = options_.packets;
    live_options.cpu = kSenderCpu;
    auto live = or_die(test::LiveFrames::create(pair_, live_options));
    std::map<int, std::vector<Round>> rounds;
    std::array<int, 3> idle = {0, 64, 500};
    std::uint32_t again = 0;
    for (int round = 0; round < options_.rounds; ++round) {
      for (const int count : idle) {
        rounds[count].push_back(*undisturbed(
            [&] {
              auto app = daemon_with(count, count);
              return measure(*live, *app);
            },
            again));
      }
      std::ranges::rotate(idle, idle.begin() + 1);
    }
    const Figure alone = median(rounds[0]);
    for (const int count : {64, 500}) {
      const Figure among = median(rounds[count]);
      report_.add(fmt::format("app_among_{}_idle_apps_and_guests", count), "M/s",
                  among.packets_per_second / 1e6, alone.packets_per_second / 1e6, "no other port", 0.97,
                  false,
                  {{"ratio", paired_ratio(rounds[count], rounds[0])},
                   {"lost", among.lost},
                   {"peer_lost", alone.lost}});
    }
    if (again != 0) {
      report_.note(fmt::format("{} rounds were done again (steal in /proc/stat)", again));
    }
  }

  // Of the daemon and its processes, with so many ports, and so many peers attached to them.
  Resources resources(int apps, int guests, int attached_apps, int attached_guests) {
    auto daemon = daemon_with(apps, guests);
    std::vector<std::unique_ptr<test::AppPeer>> app_peers;
    for (int i = 0; i < attached_apps; ++i) {
      UniqueFd socket = test::connect_to(folder_.socket(fmt::format("idle-app{}", i)));
      const sluice_app_hello hello = test::good_hello();
      SLUICE_CHECK(test::send_raw(socket.get(), &hello, sizeof hello));
      std::optional<test::Answer> answer;
      SLUICE_CHECK(test::eventually([&] { return (answer = test::read_answer(socket.get())).has_value(); }));
      app_peers.push_back(std::make_unique<test::AppPeer>(std::move(socket), std::move(*answer)));
      SLUICE_CHECK(test::eventually([&] { return app_peers.back()->take_served(); }));
    }
    std::vector<std::unique_ptr<test::FrontEnd>> front_ends;
    for (int i = 0; i < attached_guests; ++i) {
      front_ends.push_back(std::make_unique<test::FrontEnd>(
          test::FrontEnd::connect(folder_.socket(fmt::format("idle-vm{}", i)))));
      SLUICE_CHECK(front_ends.back()->barrier());
    }
    Resources used;
    const pid_t pid = daemon->daemon_pid();
    used.descriptors = daemon->counters().value("daemon.descriptors_used", 0.0);
    used.threads = static_cast<double>(test::tasks_of(pid).size());
    const std::vector<pid_t> children = test::descendants_of(pid);
    used.processes = 1 + static_cast<double>(children.size());
    used.resident_kib = resident_kib(pid);
    for (const pid_t child : children) {
      used.resident_kib += resident_kib(child);
    }
    return used;
  }

  static double resident_kib(pid_t pid) {
    std::ifstream status(fmt::format("/proc/{}/status", pid));
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("RssAnon:")) {  // what is its own: neither code nor what processes share
        return std::stod(line.substr(8));
      }
    }
    return 0;
  }

  void report_resources(const std::string& what, int count, const Resources& before, const Resources& after) {
    const auto each = [&](const std::string& name, const std::string& unit, double was, double is) {
      report_.add(what + "_" + name, unit, (is - was) / count, 1, "one", 0, true);
    };
    each("descriptors", "  ", before.descriptors, after.descriptors);
    each("resident", "KiB", before.resident_kib, after.resident_kib);
    each("threads", "  ", before.threads, after.threads);
    each("processes", "  ", before.processes, after.processes);
  }

  const Options& options_;
  Report& report_;
  Folder folder_;
  test::NetNs nic_ns_, wire_ns_;
  test::VethPair pair_;
};

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  using namespace sluice::bench;
  Options options;
  options.daemon =
      std::filesystem::canonical("/proc/self/exe").parent_path().parent_path() / "cmd" / "sluiced";
  CLI::App app("What ports that nobody uses cost one app, and what they take.");
  app.add_flag("--json", options.json);
  app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 99))->capture_default_str();
  app.add_option("--packets", options.packets, "per round")->capture_default_str();
  app.add_option("--daemon", options.daemon)->check(CLI::ExistingFile)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (std::string why = sluice::test::why_no_root_and_xdp(); !why.empty()) {
    std::fprintf(stderr, "scale_bench: %s\n", why.c_str());
    return 2;
  }
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  Report report(options.json);
  ScaleBench bench(options, report);
  bench.run();
  return report.finish();
}
