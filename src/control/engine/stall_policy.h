// StallPolicy: what happens to a port whose calls take more of the workers' time than its budget. Pure.
//
// Within a window a worker stops serving it by itself, once it has cost that worker the budget (PortMeter).
//
//   served     over its budget in a window            ->  throttled
//   throttled  over it in kWindowsBeforeCutOff more   ->  cut off: its session ends
//   throttled  within it for kQuietWindows in a row, and what it was over has been made up for  ->  served
//   any        kMostDebt times its budget to make up for  ->  cut off at once
#pragma once

#include <algorithm>
#include <cstdint>

namespace sluice {

inline constexpr std::uint32_t kWindowsBeforeCutOff = 3;
inline constexpr std::uint32_t kQuietWindows = 3;
inline constexpr std::uint64_t kMostDebt = 100;
// Nobody is let in after that for so long, or so many times what it was over, but no longer than that.
inline constexpr std::uint64_t kAfterCutOffNs = 30'000'000'000, kLongestAfterCutOffNs = 3'600'000'000'000;
inline constexpr std::uint64_t kAfterCutOffTimes = 100;

class StallPolicy {
 public:
  enum class State : std::uint8_t { kServed, kThrottled, kCutOff };

  // At the end of each window. After kCutOff the next session begins as kServed.
  State end_window(std::uint64_t charged_us, std::uint64_t budget_us) {
    const bool over = budget_us != 0 && charged_us > budget_us;
    if (state_ == State::kCutOff) {
      debt_us_ = 0;
    }
    debt_us_ = over ? debt_us_ + (charged_us - budget_us)
                    : debt_us_ - std::min(debt_us_, budget_us == 0 ? debt_us_ : budget_us - charged_us);
    if (over && debt_us_ > kMostDebt * budget_us) {
      return state_ = State::kCutOff;
    }
    if (state_ != State::kThrottled) {
      state_ = over ? State::kThrottled : State::kServed;
      over_ = quiet_ = 0;
      return state_;
    }
    quiet_ = over ? 0 : quiet_ + 1;
    over_ += over ? 1 : 0;
    if (over_ >= kWindowsBeforeCutOff) {
      state_ = State::kCutOff;
    } else if (quiet_ >= kQuietWindows && debt_us_ == 0) {
      state_ = State::kServed;
    }
    return state_;
  }
  State state() const { return state_; }
  // Of one that is cut off: how long nobody is let in.
  std::uint64_t shut_ns() const {
    return std::clamp(kAfterCutOffTimes * 1000 * debt_us_, kAfterCutOffNs, kLongestAfterCutOffNs);
  }

 private:
  State state_ = State::kServed;
  std::uint32_t over_ = 0, quiet_ = 0;  // windows since it was throttled
  std::uint64_t debt_us_ = 0;           // over the budgets, not made up for by windows within them
};

}  // namespace sluice
