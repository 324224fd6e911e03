// Tally: which of the numbers 0 .. N-1 came, and how often. One thread.
#pragma once

#include <cstdint>
#include <vector>

namespace sluice::test {

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
  std::uint64_t lost() const {
    return count([](std::uint8_t times) { return times == 0; });
  }
  std::uint64_t doubled() const {
    return count([](std::uint8_t times) { return times > 1; });
  }

 private:
  template <typename Which>
  std::uint64_t count(Which which) const {
    std::uint64_t sum = 0;
    for (std::uint8_t times : times_) {
      sum += which(times) ? 1 : 0;
    }
    return sum;
  }
  std::vector<std::uint8_t> times_;
};

}  // namespace sluice::test
