// Tally: which of the numbers 0 .. N-1 came, and how often. One thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace sluice::test {

// More than any test sends.
inline constexpr std::uint64_t kAnyNumber = 20'000'000;

class Tally {
 public:
  explicit Tally(std::uint64_t sequences) : times_(sequences, 0) {}
  bool note(std::uint64_t sequence) {
    if (sequence >= times_.size()) {
      return false;
    }
    ++times_[sequence];
    return true;
  }
  // Of the numbers below `end`.
  std::uint64_t lost(std::uint64_t end) const {
    return static_cast<std::uint64_t>(
        std::count(times_.begin(), times_.begin() + static_cast<std::ptrdiff_t>(end), 0));
  }
  std::uint64_t doubled() const {
    return static_cast<std::uint64_t>(
        std::count_if(times_.begin(), times_.end(), [](std::uint8_t times) { return times > 1; }));
  }

 private:
  std::vector<std::uint8_t> times_;
};

}  // namespace sluice::test
