#include "bench/latency_results.h"

#include <algorithm>
#include <cstdio>

#include "bench/latency_svg.h"

namespace sluice::bench {

namespace {

constexpr double kGoal = 2;                // of the kernel's p50: an app, default settings
constexpr double kResidenceGoalNs = 3000;  // p50, of a worker that spins
constexpr std::array<const char*, 4> kResidenceNames = {"residence_rx_p50_ns", "residence_rx_p99_ns",
                                                        "residence_tx_p50_ns", "residence_tx_p99_ns"};
constexpr std::array<std::pair<const char*, double>, 4> kQuantiles = {
    {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}}};

std::string label(const EchoSetup& setup) {
  return setup.is_sluice() ? setup.name() + " " + setup.idle : setup.name();
}

std::string key(const EchoSetup& setup, const std::string& what) {
  return fmt::format("{}_{}_{}{}", setup.name(), what, setup.pinned ? "pinned" : "free",
                     setup.is_sluice() ? "_" + setup.idle : "");
}

std::string where(bool pinned) {
  return pinned ? "worker on CPU 1, client on CPU 0" : "nothing pinned";
}

// What a user gets who sets nothing.
bool has_goal(const EchoSetup& setup, std::size_t which) {
  return setup.kind == EchoKind::kApp && setup.idle == "adaptive" && !setup.pinned && setup.spin_us == 0 &&
         which <= static_cast<std::size_t>(Case::kPaced);
}

bool has_residence_goal(const EchoSetup& setup) {
  return setup.kind == EchoKind::kApp && setup.idle == "spin";
}

// The median of the ratios of the medians of one round.
double ratio_of(const Series& ours, const Series& theirs) {
  std::vector<double> ratios;
  for (const auto& [round, p50] : ours.p50_us) {
    if (auto other = theirs.p50_us.find(round); other != theirs.p50_us.end() && other->second > 0) {
      ratios.push_back(p50 / other->second);
    }
  }
  return median_of(std::move(ratios));
}

nlohmann::json figures(std::uint64_t requests, Delays& delays) {
  nlohmann::json figures = {{"requests", requests}, {"lost", delays.lost()}};
  for (const auto& [name, quantile] : kQuantiles) {
    figures[name] = delays.us(quantile);
  }
  return figures;
}

double percent_of(std::uint64_t cpu_ns, double seconds) {
  return seconds > 0 ? static_cast<double>(cpu_ns) / seconds / 1e7 : 0;
}

}  // namespace

double median_of(std::vector<double> values) {
  if (values.empty()) {
    return 0;
  }
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

Measured& LatencyResults::of(const EchoSetup& setup) {
  if (const Measured* found = find(setup.kind, setup.pinned, setup.idle); found != nullptr) {
    return const_cast<Measured&>(*found);
  }
  measured_.push_back(
      {.setup = setup, .highest_rates = {}, .best_offer = 0, .cases = {}, .residence_ns = {}});
  return measured_.back();
}

const Measured* LatencyResults::find(EchoKind kind, bool pinned, const std::string& idle) const {
  auto found = std::ranges::find_if(measured_, [&](const Measured& each) {
    return each.setup.kind == kind && each.setup.pinned == pinned && each.setup.idle == idle;
  });
  return found == measured_.end() ? nullptr : &*found;
}

void LatencyResults::note(const std::string& text) {
  notes_.push_back(text);
  std::fprintf(stderr, "note: %s\n", text.c_str());
}

nlohmann::json LatencyResults::result(Measured& each, std::size_t which) {
  Series& series = each.cases[which];
  const Measured* kernel_echo = find(EchoKind::kKernel, each.setup.pinned, "");
  Delays theirs = kernel_echo != nullptr ? kernel_echo->cases[which].answers.whole : Delays();
  const double ratio = kernel_echo != nullptr ? ratio_of(series, kernel_echo->cases[which]) : 0;
  nlohmann::json stages, daemon;
  for (std::size_t i = 0; i < kStageNames.size(); ++i) {
    if (Delays& stage = series.answers.stages[i]; stage.count() != 0) {
      stages[kStageNames[i]] = stage.us(0.5);
    }
  }
  const double requests = static_cast<double>(std::max<std::uint64_t>(series.requests, 1));
  for (const auto& [name, count] : series.daemon) {
    if (count != 0) {
      daemon[name] = static_cast<double>(count) / requests;
    }
  }
  nlohmann::json result = {
      {"name", key(each.setup, kCaseNames[which])},
      {"unit", "us"},
      {"sluice", series.answers.whole.us(0.5)},
      {"peer", theirs.us(0.5)},
      {"peer_name", "kernel"},
      {"ratio", ratio > 0 ? nlohmann::json(ratio) : nlohmann::json()},
      {"goal", nlohmann::json()},
      {"met", nlohmann::json()},
      {"figures", figures(series.requests, series.answers.whole)},
      {"peer_figures", figures(kernel_echo != nullptr ? kernel_echo->cases[which].requests : 0, theirs)},
      {"stages_p50", stages},
      {"daemon_per_request", daemon},
      {"daemon_cpu_percent", percent_of(series.daemon_cpu_ns, series.seconds)},
      {"echo_cpu_percent", percent_of(series.echo_cpu_ns, series.seconds)},
      {"load_per_second", series.load_per_second()},
      {"load_sent", series.load_sent},
      {"load_answered", series.load_answered}};
  if (has_goal(each.setup, which)) {
    result["goal"] = kGoal;
    result["met"] = ratio > 0 && ratio <= kGoal;
  }
  return result;
}

void LatencyResults::print(bool json) {
  if (!json) {
    for (const bool pinned : {false, true}) {
      for (std::size_t which = 0; which < kCaseNames.size(); ++which) {
        print_table(pinned, which);
      }
    }
    print_stages();
    print_rates();
    print_residence();
    return;
  }
  nlohmann::json results = nlohmann::json::array();
  for (Measured& each : measured_) {
    for (std::size_t which = 0; which < kCaseNames.size(); ++which) {
      if (each.cases[which].seconds > 0) {
        results.push_back(result(each, which));
      }
    }
    if (!each.highest_rates.empty()) {
      results.push_back({{"name", key(each.setup, "rate")},
                         {"unit", "M/s"},
                         {"sluice", median_of(each.highest_rates) / 1e6},
                         {"goal", nlohmann::json()},
                         {"met", nlohmann::json()}});
    }
    for (const auto& [name, by_round] : each.residence_ns) {
      const double ns = median_of(by_round);
      const bool goal = has_residence_goal(each.setup) && name.ends_with("p50_ns");
      results.push_back({{"name", key(each.setup, name)},
                         {"unit", "ns"},
                         {"sluice", ns},
                         {"goal", goal ? nlohmann::json(kResidenceGoalNs) : nlohmann::json()},
                         {"met", goal ? nlohmann::json(ns <= kResidenceGoalNs) : nlohmann::json()}});
    }
  }
  fmt::print("{}\n", nlohmann::json{{"results", results}, {"notes", notes_}}.dump(2));
}

void LatencyResults::print_table(bool pinned, std::size_t which) {
  bool begun = false;
  for (Measured& each : measured_) {
    Series& series = each.cases[which];
    if (each.setup.pinned != pinned || series.seconds <= 0) {
      continue;
    }
    if (!begun) {
      fmt::print("\n{}, {}\n  {:<22} {:>8} {:>8} {:>8} {:>8} us {:>9} {:>6} {:>9} {:>9} {:>7}\n",
                 kCaseNames[which], where(pinned), "", "p50", "p90", "p99", "p99.9", "requests", "lost",
                 "daemon %", "load k/s", "ratio");
      begun = true;
    }
    const nlohmann::json told = result(each, which);
    Delays& delays = series.answers.whole;
    fmt::print("  {:<22} {:>8.1f} {:>8.1f} {:>8.1f} {:>8.1f}    {:>9} {:>6} {:>9.1f} {:>9.1f} {:>7}{}\n",
               label(each.setup), delays.us(0.5), delays.us(0.9), delays.us(0.99), delays.us(0.999),
               series.requests, delays.lost(), percent_of(series.daemon_cpu_ns, series.seconds),
               series.load_per_second() / 1e3,
               told["ratio"].is_null() ? "" : fmt::format("{:.2f}", told["ratio"].get<double>()),
               told["goal"].is_null()
                   ? ""
                   : fmt::format("  goal <= {}: {}", kGoal, told["met"].get<bool>() ? "met" : "MISSED"));
  }
  std::fflush(stdout);
}

// Where the time of the requests goes when nothing else is under way.
void LatencyResults::print_stages() {
  for (const std::size_t which : {std::size_t{0}, std::size_t{1}}) {
    bool begun = false;
    for (Measured& each : measured_) {
      std::array<Delays, kStageNames.size()>& stages = each.cases[which].answers.stages;
      if (stages[static_cast<std::size_t>(Stage::kToProgram)].count() == 0) {
        continue;
      }
      if (!begun) {
        fmt::print("\nwhere the time of a request goes, {}, p50 in us\n  {:<30}",
                   which == 0 ? "closed" : "paced", "");
        for (const char* name : kStageNames) {
          fmt::print(" {:>10}", name);
        }
        begun = true;
      }
      fmt::print("\n  {:<30}", label(each.setup) + (each.setup.pinned ? " pinned" : " free"));
      for (Delays& stage : stages) {
        fmt::print(" {:>10}", stage.count() == 0 ? "" : fmt::format("{:.1f}", stage.us(0.5)));
      }
    }
    fmt::print("\n");
  }
}

void LatencyResults::print_rates() {
  bool begun = false;
  for (const Measured& each : measured_) {
    if (!each.highest_rates.empty()) {
      fmt::print("{}", begun ? "" : "\nhighest rate, answers a second\n");
      begun = true;
      fmt::print("  {:<30} {:>7.3f} M/s\n", label(each.setup) + (each.setup.pinned ? " pinned" : " free"),
                 median_of(each.highest_rates) / 1e6);
    }
  }
}

// As the daemon counted it while requests came alone.
void LatencyResults::print_residence() {
  bool begun = false;
  for (const Measured& each : measured_) {
    if (each.residence_ns.empty()) {
      continue;
    }
    if (!begun) {
      fmt::print("\nhow long packets stay with the worker, closed and paced, ns\n  {:<30}", "");
      for (const char* name : kResidenceNames) {
        fmt::print(" {:>9}", std::string_view(name).substr(std::string_view("residence_").size(), 6));
      }
      fmt::print("\n");
      begun = true;
    }
    fmt::print("  {:<30}", label(each.setup) + (each.setup.pinned ? " pinned" : " free"));
    bool met = true;
    for (const char* name : kResidenceNames) {
      const auto found = each.residence_ns.find(name);
      const double ns = found == each.residence_ns.end() ? 0 : median_of(found->second);
      fmt::print(" {:>9.0f}", ns);
      met = met && (!std::string_view(name).ends_with("p50_ns") || (ns > 0 && ns <= kResidenceGoalNs));
    }
    fmt::print("{}\n", has_residence_goal(each.setup)
                           ? fmt::format("  goal p50 <= {}: {}", kResidenceGoalNs, met ? "met" : "MISSED")
                           : "");
  }
  if (!begun) {
    note("this daemon does not say how long packets stay with a worker (worker.0.residence_...)");
  }
}

std::string LatencyResults::svg() {
  std::vector<Chart> charts;
  for (std::size_t which = 0; which < kCaseNames.size(); ++which) {
    for (const bool pinned : {false, true}) {
      Chart chart{.title = fmt::format("{}, {}", kCaseNames[which], where(pinned)), .lines = {}};
      for (const Measured& each : measured_) {
        if (each.setup.pinned == pinned) {
          chart.lines.push_back({label(each.setup), each.cases[which].answers.whole.each()});
        }
      }
      charts.push_back(std::move(chart));
    }
  }
  return to_svg("delay of a request and its answer", charts);
}

}  // namespace sluice::bench
