// How long a lone request waits: one UDP datagram outstanding at a time, by way of an app, a guest and a tap,
// beside the kernel's own UDP echo and DPDK's net_af_xdp, on one wire (veth) in one run.
//
// The client and all echoes are ordinary processes without priorities. An echo of Sluice has a daemon of its
// own in each round; rounds follow one another in turning order, so that drift of the machine hits all alike.
// Percentiles are over all rounds, each of which counts alike, and a ratio is the median of the ratios of the
// medians of one round. What was measured while the host took a CPU away is measured again.
//
// The load is another flow by the same port at a constant rate, which is answered too; it comes in batches,
// as the generator is woken (every 0.2 ms). Its rate is a share of the highest one of the same echo in the
// same mode, or with DPDK of the app's in its default one, so that both stand beside each other at one rate.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <thread>

#include "base/clock.h"
#include "bench/latency_results.h"
#include "bench/measure.h"
#include "test/guest/testpmd.h"
#include "test/support/live_frames.h"

namespace sluice::bench {
namespace {

constexpr int kTries = 4;
constexpr std::uint32_t kLoadBatch = 16;
constexpr std::size_t kSamplesPerRound = 2000;
constexpr double kRateSeconds = 0.15, kLoadBegins = 0.05, kWarmUpSeconds = 0.02;
constexpr std::array<double, 6> kOffers = {0,     800e3, 400e3,
                                           200e3, 100e3, 50e3};  // a second; 0: all that goes
constexpr auto kBetweenTries = std::chrono::milliseconds(300);   // a limit of CPU time has its credit back

struct Options {
  bool json = false;
  bool quick = false;
  int rounds = 5;
  double seconds = 0.4;
  double rate = 0;
  std::uint32_t spin_us = 0;
  std::vector<std::string> only;
  std::string svg;
};

class LatencyBench {
 public:
  LatencyBench(const Options& options, std::unique_ptr<EchoGround> ground)
      : options_(options), ground_(std::move(ground)) {}

  int run() {
    std::vector<EchoSetup> setups = wanted_setups();
    for (int round = 0; round < options_.rounds; ++round) {
      for (const EchoSetup& setup : setups) {
        if (auto done = measure_echo(setup, round); !done) {
          results_.note(fmt::format("{} {}: {}", setup.name(), setup.idle, done.error().message));
        }
      }
      std::ranges::rotate(setups, setups.begin() + static_cast<std::ptrdiff_t>(setups.size() / 3));
    }
    if (again_ != 0) {
      results_.note(
          fmt::format("{} measurements were made again, for the host had taken a CPU away (steal in "
                      "/proc/stat); {} of those that count are such",
                      again_, disturbed_));
    }
    results_.print(options_.json);
    if (!options_.svg.empty()) {
      std::ofstream(options_.svg) << results_.svg();
    }
    return results_.empty() ? 1 : 0;
  }

 private:
  // Of each group of words (echoes, cases, pinning, modes) those that were named, or all when none was.
  bool wanted(const std::string& word, std::span<const char* const> group) const {
    const auto named = [&](const std::string& each) { return std::ranges::count(options_.only, each) != 0; };
    return named(word) || std::ranges::none_of(group, named);
  }

  std::vector<EchoSetup> wanted_setups() {
    std::vector<EchoSetup> setups;
    const bool dpdk = test::Testpmd::why_none().empty();
    if (!dpdk) {
      results_.note("without dpdk and guest_polls: " + test::Testpmd::why_none());
    }
    for (const bool pinned : {false, true}) {
      if (!wanted(pinned ? "pinned" : "free", kPinning)) {
        continue;
      }
      for (std::size_t i = 0; i < std::size(kEchoNames); ++i) {
        const auto kind = static_cast<EchoKind>(i);
        const bool polls = kind == EchoKind::kDpdk || kind == EchoKind::kGuestPolls;
        // The kernel's echo is what all are compared with. DPDK's programs have no loop that is not pinned.
        if ((kind != EchoKind::kKernel && !wanted(kEchoNames[i], kEchoNames)) ||
            (polls && (!pinned || !dpdk || options_.quick))) {
          continue;
        }
        if (kind == EchoKind::kKernel || kind == EchoKind::kDpdk) {
          setups.push_back({.kind = kind, .pinned = pinned, .idle = ""});
          continue;
        }
        for (const char* idle : kIdleModes) {
          // A core is kept awake only where the worker is pinned to it.
          if (wanted(idle, kIdleModes) && (pinned || idle != std::string("awake"))) {
            setups.push_back({.kind = kind, .pinned = pinned, .idle = idle, .spin_us = options_.spin_us});
          }
        }
      }
    }
    return setups;
  }

  Result<void> measure_echo(const EchoSetup& setup, int round) {
    auto peer = ground_->start(setup);
    SLUICE_TRY(peer);
    Measured& measured = results_.of(setup);
    SLUICE_TRY(measure_cases({{Case::kClosed, Case::kPaced}}, setup, **peer, round, measured));
    note_residence(**peer, measured);
    if (wanted("load10", kCaseNames) || wanted("load50", kCaseNames)) {
      SLUICE_TRY(measure_rate(setup, measured));
    }
    return measure_cases({{Case::kLoad10, Case::kLoad50}}, setup, **peer, round, measured);
  }

  Result<void> measure_cases(const std::array<Case, 2>& cases, const EchoSetup& setup, EchoPeer& peer,
                             int round, Measured& measured) {
    for (const Case which : cases) {
      const auto at = static_cast<std::size_t>(which);
      if (wanted(kCaseNames[at], kCaseNames)) {
        SLUICE_TRY(measure_case(setup, peer, which, round, measured.cases[at]));
      }
    }
    return {};
  }

  Result<std::unique_ptr<test::LiveFrames>> load(const EchoSetup& setup, double per_second) {
    test::LiveFramesOptions options;
    options.frame = ground_->load_frame(setup.kind);
    options.packets_per_second = static_cast<std::uint64_t>(per_second);
    options.batch = kLoadBatch;
    if (setup.pinned) {
      options.cpu = kSenderCpu;
    }
    return test::LiveFrames::create(ground_->pair(), std::move(options));
  }

  static void let_pass(double seconds) {
    const std::chrono::duration<double> measured(seconds);
    std::this_thread::sleep_for(measured);  // lint: allow(sleep) what is measured is time
  }

  // Answers a second while `offered` are asked for.
  Result<double> answered_at(const EchoSetup& setup, double offered) {
    auto live = load(setup, offered);
    SLUICE_TRY(live);
    (*live)->start();
    let_pass(kLoadBegins);
    const std::uint64_t answered = ground_->answered(), begun = now_ns();
    let_pass(kRateSeconds);
    const double rate =
        static_cast<double>(ground_->answered() - answered) * 1e9 / static_cast<double>(now_ns() - begun);
    SLUICE_TRY((*live)->stop());
    return rate;
  }

  // Who is asked for far too much may answer less than it could.
  Result<void> measure_rate(const EchoSetup& setup, Measured& measured) {
    const bool first = measured.highest_rates.empty();
    double highest = 0;
    for (const double offered : first ? std::vector<double>(kOffers.begin(), kOffers.end())
                                      : std::vector<double>{measured.best_offer}) {
      auto rate = answered_at(setup, offered);
      SLUICE_TRY(rate);
      if (*rate > highest) {
        highest = *rate;
        measured.best_offer = offered;
      }
    }
    measured.highest_rates.push_back(highest);
    return {};
  }

  // What the load's share is of: the first that was measured; 0: none was.
  double base_rate(const EchoSetup& setup) {
    if (options_.rate > 0) {
      return options_.rate;
    }
    const bool dpdk = setup.kind == EchoKind::kDpdk;
    const Measured* found = dpdk ? results_.find(EchoKind::kApp, setup.pinned, kIdleModes[0])
                                 : results_.find(setup.kind, setup.pinned, setup.idle);
    return found == nullptr || found->highest_rates.empty() ? 0 : found->highest_rates.front();
  }

  Result<void> measure_case(const EchoSetup& setup, EchoPeer& peer, Case which, int round, Series& series) {
    const bool is_loaded = which == Case::kLoad10 || which == Case::kLoad50;
    const double rate = is_loaded ? base_rate(setup) * (which == Case::kLoad50 ? 0.5 : 0.1) : 0;
    if (is_loaded && rate < 1) {
      return fail("no highest rate to take a share of: measure the app too, or say --rate");
    }
    for (int tries = 1;; ++tries) {
      const std::uint64_t before = stolen_ms();
      auto once = measure_once(setup, peer, which, rate);
      SLUICE_TRY(once);
      const bool stolen = stolen_ms() != before;
      if (stolen && tries < kTries) {
        ++again_;
        std::this_thread::sleep_for(kBetweenTries);  // lint: allow(sleep) 3 times
        continue;
      }
      disturbed_ += stolen ? 1 : 0;
      if (once->answers.whole.count() != 0) {
        series.p50_us[round] = once->answers.whole.us(0.5);
      }
      add(series, *once);
      return {};
    }
  }

  Result<Series> measure_once(const EchoSetup& setup, EchoPeer& peer, Case which, double rate) {
    LatencyClient client(ground_->wire(), ground_->ip(setup.kind));
    const auto pace = which == Case::kPaced ? LatencyClient::Pace::kOnePerMs : LatencyClient::Pace::kClosed;
    const std::optional<std::uint32_t> cpu = setup.pinned ? std::optional(kSenderCpu) : std::nullopt;
    std::unique_ptr<test::LiveFrames> live;
    if (rate > 0) {
      auto made = load(setup, rate);
      SLUICE_TRY(made);
      live = std::move(*made);
      live->start();
      let_pass(kLoadBegins);
    }
    client.run(pace, kWarmUpSeconds, cpu);
    const nlohmann::json counters = peer.counters();
    Series series;
    const std::uint64_t begun = now_ns(), daemon = peer.daemon_cpu_ns(), echo = peer.echo_cpu_ns(),
                        answered = ground_->answered(), sent = live ? live->sent() : 0;
    series.answers = client.run(pace, options_.seconds, cpu);
    series.requests = series.answers.whole.count();
    series.seconds = static_cast<double>(now_ns() - begun) / 1e9;
    series.daemon_cpu_ns = peer.daemon_cpu_ns() - daemon;
    series.echo_cpu_ns = peer.echo_cpu_ns() - echo;
    if (live) {
      series.load_sent = live->sent() - sent;
      const std::uint64_t all = ground_->answered() - answered, ours = series.requests;
      series.load_answered = all - std::min(all, ours);
      SLUICE_TRY(live->stop());
    }
    note_counters(counters, peer.counters(), series);
    return series;
  }

  // Turns, rests and system calls of the daemon.
  static void note_counters(const nlohmann::json& before, const nlohmann::json& after, Series& series) {
    constexpr std::array<std::string_view, 8> kNames = {
        ".turns", ".naps", ".sleeps", ".sleeps_refused", ".wakeups", ".rx_kicks", ".tx_kicks", ".calls"};
    for (const auto& [name, value] : after.items()) {
      const auto is_it = [&name](std::string_view end) { return name.ends_with(end); };
      if (std::ranges::any_of(kNames, is_it) && value.is_number_unsigned() && before.contains(name)) {
        series.daemon[name] = value.get<std::uint64_t>() - before[name].get<std::uint64_t>();
      }
    }
  }

  static void add(Series& series, const Series& more) {
    series.answers.add(more.answers.evenly(kSamplesPerRound));
    series.requests += more.requests;
    series.seconds += more.seconds;
    series.daemon_cpu_ns += more.daemon_cpu_ns;
    series.echo_cpu_ns += more.echo_cpu_ns;
    series.load_sent += more.load_sent;
    series.load_answered += more.load_answered;
    for (const auto& [name, count] : more.daemon) {
      series.daemon[name] += count;
    }
  }

  static void note_residence(EchoPeer& peer, Measured& measured) {
    const nlohmann::json counters = peer.counters();
    constexpr std::string_view kPrefix = "worker.0.residence_";
    for (const auto& [name, value] : counters.items()) {
      if (name.starts_with(kPrefix) && name.ends_with("_ns") && value.is_number() && value != 0) {
        measured.residence_ns[name.substr(kPrefix.size() - std::string_view("residence_").size())].push_back(
            value.get<double>());
      }
    }
  }

 public:
  static constexpr std::array<const char*, 2> kPinning = {"free", "pinned"};
  static constexpr std::array<const char*, 3> kIdleModes = {"adaptive", "spin", "awake"};

 private:
  const Options& options_;
  std::unique_ptr<EchoGround> ground_;
  LatencyResults results_;
  std::uint32_t again_ = 0, disturbed_ = 0;  // measurements
};

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  using namespace sluice::bench;
  Options options;
  CLI::App app("How long a lone request and its answer take, beside the kernel's echo and DPDK's.");
  app.add_flag("--json", options.json);
  app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 99))->capture_default_str();
  app.add_option("--seconds", options.seconds, "that each case is measured per round")
      ->check(CLI::Range(0.1, 600.0))
      ->capture_default_str();
  app.add_option("--rate", options.rate,
                 "packets a second that the load is a share of; 0: the highest of each echo, measured first")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--spin-us", options.spin_us, "of the app, before it sleeps")->capture_default_str();
  std::vector<std::string> words(std::begin(kEchoNames), std::end(kEchoNames));
  words.insert(words.end(), kCaseNames.begin(), kCaseNames.end());
  words.insert(words.end(), LatencyBench::kPinning.begin(), LatencyBench::kPinning.end());
  words.insert(words.end(), LatencyBench::kIdleModes.begin(), LatencyBench::kIdleModes.end());
  app.add_option("--only", options.only,
                 "echoes, cases, pinning, idle modes; the kernel's echo is always there")
      ->delimiter(',')
      ->check(CLI::IsMember(words));
  app.add_option("--svg", options.svg, "a file for histograms: a chart per case, a line per echo");
  app.add_flag("--quick", options.quick, "one short round, without DPDK: a minute");
  CLI11_PARSE(app, argc, argv);
  if (options.quick) {
    options.rounds = 1;
    options.seconds = 0.2;
  }
  if (std::string why = sluice::test::why_no_root_and_xdp(); !why.empty()) {
    std::fprintf(stderr, "latency_bench: %s\n", why.c_str());
    return 2;
  }
  if (std::thread::hardware_concurrency() < 2) {
    std::fprintf(stderr, "latency_bench: needs two CPUs: one is the worker's\n");
    return 2;
  }
  auto ground = EchoGround::create();
  if (!ground) {
    std::fprintf(stderr, "latency_bench: %s\n", ground.error().message.c_str());
    return 2;
  }
  return LatencyBench(options, std::move(*ground)).run();
}
