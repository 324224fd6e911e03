// JsonCounters: what a component counts, as one JSON object: names to values.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "stats/counter.h"

namespace sluice {

class JsonCounters final : public CounterVisitor {
 public:
  void counter(std::string_view name, std::uint64_t value) override {
    nlohmann::json& place = counters_[prefix_ + std::string(name)];
    place = (place.is_null() ? 0 : place.get<std::uint64_t>()) + value;  // sums over queues, workers, NICs
  }
  void set_prefix(std::string prefix) { prefix_ = std::move(prefix); }
  nlohmann::json take() { return std::move(counters_); }

 private:
  std::string prefix_;
  nlohmann::json counters_ = nlohmann::json::object();
};

template <typename Component>
nlohmann::json counters_of(const Component& component) {
  JsonCounters counters;
  component.visit(counters);
  return counters.take();
}

}  // namespace sluice
