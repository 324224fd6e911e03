#include "stats/snapshot.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

namespace sluice {

std::optional<std::uint64_t> Snapshot::value(std::string_view name) const {
  auto found = std::ranges::find(samples_, name, &Sample::name);
  return found == samples_.end() ? std::nullopt : std::optional(found->value);
}

std::string Snapshot::json() const {
  std::string text = "{";
  for (const Sample& sample : samples_) {
    // Names are snake_case (counter.h), so nothing in them needs an escape.
    fmt::format_to(std::back_inserter(text), "{}\"{}\":{}", text.size() > 1 ? "," : "", sample.name,
                   sample.value);
  }
  return text + "}";
}

std::vector<Rate> rates(const Snapshot& before, const Snapshot& after, std::uint64_t elapsed_ns) {
  std::unordered_map<std::string_view, std::uint64_t> earlier;
  for (const Sample& sample : before.samples()) {
    earlier.emplace(sample.name, sample.value);
  }
  std::vector<Rate> result;
  for (const Sample& sample : after.samples()) {
    Rate rate{.name = sample.name, .total = sample.value};
    if (sample.kind == Sample::Kind::kCounter && elapsed_ns > 0) {
      auto found = earlier.find(sample.name);
      const std::uint64_t base = found == earlier.end() || found->second > sample.value ? 0 : found->second;
      rate.per_second = static_cast<double>(sample.value - base) * 1e9 / static_cast<double>(elapsed_ns);
    }
    result.push_back(std::move(rate));
  }
  return result;
}

}  // namespace sluice
