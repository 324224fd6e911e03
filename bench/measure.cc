#include "bench/measure.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/clock.h"

namespace sluice::bench {

namespace {
constexpr std::uint64_t kGraceNs = 300'000'000;  // after the last packet was sent
constexpr int kTries = 4;
constexpr auto kBetweenTries = std::chrono::milliseconds(500);  // a limit of CPU time has its credit back
}  // namespace

// The eighth figure of their lines in /proc/stat, in ticks.
std::uint64_t stolen_ms() {
  std::uint64_t ticks = 0;
  std::ifstream stat("/proc/stat");
  for (std::string line; std::getline(stat, line);) {
    std::istringstream words(line);
    std::string cpu;
    words >> cpu;
    if (cpu != fmt::format("cpu{}", kSenderCpu) && cpu != fmt::format("cpu{}", kReceiverCpu)) {
      continue;
    }
    std::uint64_t value = 0;
    for (int i = 0; i < 8; ++i) {
      words >> value;
    }
    ticks += value;
  }
  return ticks * 1000 / static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
}

void run_on(std::uint32_t cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  ::pthread_setaffinity_np(::pthread_self(), sizeof(set), &set);
}

void run_anywhere() {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (std::size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    CPU_SET(cpu, &set);  // the kernel leaves out those that there are not
  }
  ::pthread_setaffinity_np(::pthread_self(), sizeof(set), &set);
}

Round measure(test::LiveFrames& live, Receiver& receiver) {
  Round round;
  std::uint64_t first = 0, last = 0, ended = 0;
  const std::uint64_t stolen_before = stolen_ms();
  live.start();
  for (;;) {
    std::uint64_t count = receiver.turn();
    if (count != 0) {
      last = now_ns();
      first = first == 0 ? last : first;
      round.received += count;
      continue;
    }
    if (!live.running()) {
      std::uint64_t now = now_ns();
      ended = ended == 0 ? now : ended;
      if (now - std::max(ended, last) > kGraceNs) {
        break;
      }
    }
  }
  round.sent = live.wait().value();
  round.packets_per_second = static_cast<double>(round.received) * 1e9 /
                             static_cast<double>(std::max<std::uint64_t>(last - first, 1));
  round.stolen_ms = stolen_ms() - stolen_before;
  return round;
}

Result<Round> undisturbed(const std::function<Result<Round>()>& once, std::uint32_t& again) {
  auto round = once();
  for (int tries = 1; round && round->stolen_ms != 0 && tries < kTries; ++tries) {
    ++again;
    std::this_thread::sleep_for(kBetweenTries);
    round = once();
  }
  return round;
}

void Rounds::run(int rounds, const std::function<Result<Round>(const std::string&)>& one) {
  for (int round = 0; round < rounds; ++round) {
    for (const std::string& name : names_) {
      if (left_out_.contains(name)) {
        continue;
      }
      if (auto done = one(name)) {
        rounds_[name].push_back(*done);
      } else {
        left_out_[name] = done.error().message;
        rounds_.erase(name);
      }
    }
    std::ranges::rotate(names_, names_.begin() + 1);
  }
}

bool Rounds::has(const std::string& name) const {
  const auto found = rounds_.find(name);
  return found != rounds_.end() && !found->second.empty();
}

Figure median(std::vector<Round> rounds) {
  std::sort(rounds.begin(), rounds.end(),
            [](const Round& a, const Round& b) { return a.packets_per_second < b.packets_per_second; });
  Figure figure;
  for (const Round& round : rounds) {
    figure.sent += round.sent;
    figure.lost += round.lost();
  }
  figure.packets_per_second = rounds[rounds.size() / 2].packets_per_second;
  return figure;
}

PairedRatio paired_ratios(const std::vector<Round>& ours, const std::vector<Round>& theirs) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < std::min(ours.size(), theirs.size()); ++i) {
    ratios.push_back(ours[i].packets_per_second / theirs[i].packets_per_second);
  }
  std::ranges::sort(ratios);
  return ratios.empty() ? PairedRatio{}
                        : PairedRatio{ratios[ratios.size() / 2], ratios.front(), ratios.back()};
}

void Report::add(const std::string& name, const std::string& unit, double sluice, double peer,
                 const std::string& peer_name, double goal, bool lower_is_better, nlohmann::json more) {
  double ratio = more.value("ratio", peer > 0 ? sluice / peer : 0);
  bool met = lower_is_better ? ratio <= goal : ratio >= goal;
  if (more.contains("lost") && goal > 0) {
    met = met && more["lost"].get<std::uint64_t>() == 0;
  }
  nlohmann::json result = {{"name", name}, {"unit", unit},           {"sluice", sluice},
                           {"peer", peer}, {"peer_name", peer_name}, {"ratio", ratio}};
  result["goal"] = goal > 0 ? nlohmann::json(goal) : nlohmann::json();
  result["met"] = goal > 0 ? nlohmann::json(met) : nlohmann::json();
  result.update(more);
  results_.push_back(result);
  if (!json_) {
    std::string goal_text =
        goal > 0 ? fmt::format("goal {} {}: {}", lower_is_better ? "<=" : ">=", goal, met ? "met" : "MISSED")
                 : "";
    std::string lost = more.contains("lost") ? fmt::format("lost {}", more["lost"].get<std::uint64_t>()) : "";
    std::string peer_lost =
        more.contains("peer_lost") ? fmt::format("lost {}", more["peer_lost"].get<std::uint64_t>()) : "";
    std::string range = more.contains("ratio_low")
                            ? fmt::format("({:.3f} to {:.3f}) ", more["ratio_low"].get<double>(),
                                          more["ratio_high"].get<double>())
                            : "";
    fmt::print("{:<28} {:>9.3f} {} {:<13} | {:<16} {:>9.3f} {:<13} | ratio {:.3f} {}{}\n", name, sluice, unit,
               lost, peer_name, peer, peer_lost, ratio, range, goal_text);
    std::fflush(stdout);
  }
}

void Report::add_rates(const std::string& name, const std::vector<Round>& ours,
                       const std::vector<Round>& theirs, const std::string& peer_name, double goal,
                       nlohmann::json more) {
  const Figure our = median(ours), their = median(theirs);
  const PairedRatio ratio = paired_ratios(ours, theirs);
  more.update({{"ratio", ratio.median},
               {"ratio_low", ratio.low},
               {"ratio_high", ratio.high},
               {"lost", our.lost},
               {"sent", our.sent},
               {"peer_lost", their.lost},
               {"peer_sent", their.sent}});
  add(name, "M/s", our.packets_per_second / 1e6, their.packets_per_second / 1e6, peer_name, goal, false,
      more);
}

void Report::note(const std::string& text) {
  notes_.push_back(text);
  std::fprintf(stderr, "note: %s\n", text.c_str());
}

int Report::finish() {
  if (json_) {
    fmt::print("{}\n", nlohmann::json{{"results", results_}, {"notes", notes_}}.dump(2));
  }
  return results_.empty() ? 1 : 0;
}

}  // namespace sluice::bench
