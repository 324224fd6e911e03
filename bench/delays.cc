#include "bench/delays.h"

#include <algorithm>

namespace sluice::bench {

void Delays::add(const Delays& more) {
  each_.insert(each_.end(), more.each_.begin(), more.each_.end());
  lost_ += more.lost_;
}

Delays Delays::evenly(std::size_t count) const {
  Delays even;
  even.lost_ = lost_;
  if (each_.empty()) {
    return even;
  }
  std::vector<std::uint64_t> sorted = each_;
  std::ranges::sort(sorted);
  for (std::size_t i = 0; i < count; ++i) {
    even.each_.push_back(sorted[(2 * i + 1) * sorted.size() / (2 * count)]);
  }
  return even;
}

std::uint64_t Delays::ns(double quantile) {
  if (each_.empty()) {
    return 0;
  }
  const auto at =
      std::min(static_cast<std::size_t>(quantile * static_cast<double>(each_.size())), each_.size() - 1);
  const auto place = each_.begin() + static_cast<std::ptrdiff_t>(at);
  std::ranges::nth_element(each_, place);
  return *place;
}

}  // namespace sluice::bench
