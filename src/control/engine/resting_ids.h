// RestingIds: small numbers that frames carry. One that was given back rests until no frame of its former
// holder can be under way, and the one that is free for the longest time is taken first.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>

namespace sluice {

class RestingIds {
 public:
  RestingIds(std::uint16_t first, std::uint16_t end) {
    for (std::uint16_t id = first; id < end; ++id) {
      free_.push_back(id);
    }
  }

  // None: all are taken, or rest.
  std::optional<std::uint16_t> take() {
    if (free_.empty()) {
      return std::nullopt;
    }
    std::uint16_t id = free_.front();
    free_.pop_front();
    return id;
  }
  void give_back(std::uint16_t id) { resting_.push_back({id, round_}); }
  bool any_resting() const { return !resting_.empty(); }

  // A round is one look at whether frames are still under way. What is given back after its begin waits for
  // the next one.
  void begin_round() { ++round_; }
  void end_round() {
    while (!resting_.empty() && resting_.front().round < round_) {
      free_.push_back(resting_.front().id);
      resting_.pop_front();
    }
  }

 private:
  struct Resting {
    std::uint16_t id;
    std::uint64_t round;  // it was given back in
  };
  std::deque<std::uint16_t> free_;  // oldest first
  std::deque<Resting> resting_;
  std::uint64_t round_ = 0;
};

}  // namespace sluice
