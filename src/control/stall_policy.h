// StallPolicy: what happens to a port whose calls take more of the workers' time than its budget. Pure.
//
// Within a window a worker stops serving it by itself, once it has cost that worker the budget (PortMeter).
//
//   served     over its budget in a window            ->  throttled
//   throttled  over it in kWindowsBeforeCutOff more   ->  cut off: its session ends
//   throttled  within it for kQuietWindows in a row   ->  served
#pragma once

#include <cstdint>

namespace sluice {

inline constexpr std::uint32_t kWindowsBeforeCutOff = 3;
inline constexpr std::uint32_t kQuietWindows = 3;
// Nobody is let in for so long after that.
inline constexpr std::uint64_t kAfterCutOffNs = 30'000'000'000;

class StallPolicy {
 public:
  enum class State : std::uint8_t { kServed, kThrottled, kCutOff };

  // At the end of each window. After kCutOff the next session begins as kServed.
  State end_window(std::uint64_t charged_us, std::uint64_t budget_us) {
    const bool over = budget_us != 0 && charged_us > budget_us;
    if (state_ != State::kThrottled) {
      state_ = over ? State::kThrottled : State::kServed;
      over_ = quiet_ = 0;
      return state_;
    }
    quiet_ = over ? 0 : quiet_ + 1;
    over_ += over ? 1 : 0;
    if (over_ >= kWindowsBeforeCutOff) {
      state_ = State::kCutOff;
    } else if (quiet_ >= kQuietWindows) {
      state_ = State::kServed;
    }
    return state_;
  }
  State state() const { return state_; }

 private:
  State state_ = State::kServed;
  std::uint32_t over_ = 0, quiet_ = 0;  // windows since it was throttled
};

}  // namespace sluice
