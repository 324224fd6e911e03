// Waiting, counting, and where packets were lost.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "base/clock.h"
#include "base/result.h"

namespace sluice::demo {

class Stage;

// No step of the demo waits longer for what should come at once.
inline constexpr std::chrono::milliseconds kPatience{5000};

// True as soon as `condition` is; false when the time is over.
bool wait_until(std::chrono::milliseconds patience, const std::function<bool()>& condition);

class Stopwatch {
 public:
  double seconds() const { return static_cast<double>(now_ns() - begin_ns_) / 1e9; }
  // For figures: milliseconds with one decimal.
  double ms() const { return static_cast<double>((now_ns() - begin_ns_) / 100'000) / 10.0; }

 private:
  std::uint64_t begin_ns_ = now_ns();
};

// All counters of the daemon and of both ends of the wire at one moment.
class Counts {
 public:
  static Result<Counts> now(Stage& stage);

  std::uint64_t operator[](const std::string& name) const { return counters_.value(name, std::uint64_t{0}); }
  // What grew since `before`.
  std::uint64_t grown(const Counts& before, const std::string& name) const;
  // The counters that tell of a lost packet, and grew: {"queue.nic0:0.rx_ring_full": 17}. "wire" is the veth
  // pair.
  nlohmann::json losses(const Counts& before) const;

 private:
  nlohmann::json counters_;
};

}  // namespace sluice::demo
