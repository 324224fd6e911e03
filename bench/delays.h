// Delays of one kind, in nanoseconds, and what never came.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice::bench {

class Delays {
 public:
  void note(std::uint64_t ns) { each_.push_back(ns); }
  void note_lost(std::uint64_t count = 1) { lost_ += count; }
  void add(const Delays& more);
  // `count` of them, evenly by rank, some several times: so that rounds of different lengths count alike.
  Delays evenly(std::size_t count) const;
  std::size_t count() const { return each_.size(); }
  std::uint64_t lost() const { return lost_; }
  // 0.5: the median, 1: the longest. 0 when there is none.
  double ms(double quantile) { return static_cast<double>(ns(quantile)) / 1e6; }
  double us(double quantile) { return static_cast<double>(ns(quantile)) / 1e3; }
  std::span<const std::uint64_t> each() const { return each_; }  // in no order

 private:
  std::uint64_t ns(double quantile);

  std::vector<std::uint64_t> each_;
  std::uint64_t lost_ = 0;
};

}  // namespace sluice::bench
