// Waiting for a condition, with a deadline that is only ever met by a failure.
#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

namespace sluice::test {

// What counts is the time that this process was there to look: a machine may stop it, and the daemon with it,
// for as long as it likes.
template <typename Condition>
bool eventually(Condition&& condition, std::chrono::seconds deadline = std::chrono::seconds(30)) {
  using Clock = std::chrono::steady_clock;
  constexpr Clock::duration kLongestLook = std::chrono::milliseconds(50);
  Clock::duration looked{};
  for (Clock::time_point last = Clock::now(); !condition();) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const Clock::time_point now = Clock::now();
    looked += std::min(now - last, kLongestLook);
    last = now;
    if (looked > deadline) {
      return condition();
    }
  }
  return true;
}

}  // namespace sluice::test
