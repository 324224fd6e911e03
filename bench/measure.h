// What every bench of traffic shares: a wire at full rate from CPU 0, a receiver on CPU 1, rounds, medians,
// the report.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "test/support/live_frames.h"
#include "test/support/net_ns.h"
#include "test/support/veth.h"

namespace sluice::bench {

inline constexpr std::uint32_t kSenderCpu = 0;    // and the kernel's receive work, which follows the sender
inline constexpr std::uint32_t kReceiverCpu = 1;  // worker and app, or the peer's loop

struct Round {
  double packets_per_second = 0;  // received, from the first packet to the last
  std::uint64_t sent = 0, received = 0;
  // By the host, of the two CPUs, in steps of 10 (steal, proc_stat(5)); 0 on bare metal.
  std::uint64_t stolen_ms = 0;
  std::uint64_t lost() const { return sent - received; }
};

// A receiver that is ready when it is made: turn() takes what is there and says how many packets that was.
class Receiver {
 public:
  virtual ~Receiver() = default;
  virtual std::uint64_t turn() = 0;
};

void run_on(std::uint32_t cpu);  // pins this thread, and what it starts
void run_anywhere();             // and takes that back
std::uint64_t stolen_ms();       // by the host, of the two CPUs, since boot

// Sends `packets` at full rate while this thread turns the receiver.
Round measure(test::LiveFrames& live, Receiver& receiver);

// A host that limits a machine's CPU time, or has others to serve, takes CPUs away for longer than a NIC's
// ring lasts. A round in which that happened says more of the host than of who received, and is done again,
// at most 3 times. `again` counts them.
Result<Round> undisturbed(const std::function<Result<Round>()>& once, std::uint32_t& again);

// Who measures in turn. All have as many rounds, and each round begins with another, so that drift of the
// machine and what a round leaves behind meet all alike.
class Rounds {
 public:
  explicit Rounds(std::vector<std::string> names) : names_(std::move(names)) {}
  // `one` says a round of a name, or why there is none: the name then has no more, and the error is kept.
  void run(int rounds, const std::function<Result<Round>(const std::string&)>& one);

  bool has(const std::string& name) const;
  const std::vector<Round>& of(const std::string& name) const { return rounds_.at(name); }
  const std::map<std::string, std::string>& left_out() const { return left_out_; }  // name -> why

 private:
  std::vector<std::string> names_;
  std::map<std::string, std::vector<Round>> rounds_;
  std::map<std::string, std::string> left_out_;
};

// The round in the middle by rate; its losses are the sum over all rounds.
struct Figure {
  double packets_per_second = 0;
  std::uint64_t sent = 0, lost = 0;
};
Figure median(std::vector<Round> rounds);

// The ratios of rounds that followed one another: a machine whose speed changes from second to second changes
// it for both sides of a pair.
struct PairedRatio {
  double median = 0, low = 0, high = 0;
};
PairedRatio paired_ratios(const std::vector<Round>& ours, const std::vector<Round>& theirs);
inline double paired_ratio(const std::vector<Round>& ours, const std::vector<Round>& theirs) {
  return paired_ratios(ours, theirs).median;
}

// {"results": [...]} or a table, as the flags say. Also the exit status: 1 when something could not be
// measured.
class Report {
 public:
  explicit Report(bool json) : json_(json) {}
  // The ratio is of the two figures, or `more["ratio"]`.
  void add(const std::string& name, const std::string& unit, double sluice, double peer,
           const std::string& peer_name, double goal, bool lower_is_better = false,
           nlohmann::json more = nlohmann::json::object());
  // Rates of rounds that followed one another, in M/s: the middle ones, the median of their ratios, and what
  // each lost. A goal is met without loss only.
  void add_rates(const std::string& name, const std::vector<Round>& ours, const std::vector<Round>& theirs,
                 const std::string& peer_name, double goal, nlohmann::json more = nlohmann::json::object());
  void note(const std::string& text);  // what was left out, and why
  int finish();

 private:
  bool json_;
  nlohmann::json results_ = nlohmann::json::array();
  nlohmann::json notes_ = nlohmann::json::array();
};

}  // namespace sluice::bench
