// Snapshot: a component's counters at one moment, in its own order; two of them make rates. Pure: no clock,
// no I/O.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "stats/counter.h"

namespace sluice {

struct Sample {
  std::string name;
  std::uint64_t value = 0;
  enum class Kind : std::uint8_t { kCounter, kGauge } kind = Kind::kCounter;
  bool operator==(const Sample&) const = default;
};

class Snapshot final : public CounterVisitor {
 public:
  void counter(std::string_view name, std::uint64_t value) override {
    samples_.push_back({std::string(name), value, Sample::Kind::kCounter});
  }
  void gauge(std::string_view name, std::uint64_t value) override {
    samples_.push_back({std::string(name), value, Sample::Kind::kGauge});
  }

  const std::vector<Sample>& samples() const { return samples_; }
  std::optional<std::uint64_t> value(std::string_view name) const;
  // {"turns":1,"packets":2}, in order.
  std::string json() const;

 private:
  std::vector<Sample> samples_;
};

// auto before = collect(worker);   anything with visit(CounterVisitor&) const.
template <typename Component>
Snapshot collect(const Component& component) {
  Snapshot snapshot;
  component.visit(snapshot);
  return snapshot;
}

struct Rate {
  std::string name;
  double per_second = 0;  // of a gauge: 0
  std::uint64_t total = 0;
  bool operator==(const Rate&) const = default;
};

// One rate per sample of `after`, in its order, for `sluicectl watch`. A counter that is new, or smaller than
// before (its component was made anew between the two), counts from 0. `elapsed_ns` of 0 gives rates of 0.
std::vector<Rate> rates(const Snapshot& before, const Snapshot& after, std::uint64_t elapsed_ns);

}  // namespace sluice
