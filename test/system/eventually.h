// Waiting for a condition, with a deadline that is only ever met by a failure.
#pragma once

#include <chrono>
#include <thread>

namespace sluice::test {

template <typename Condition>
bool eventually(Condition&& condition, std::chrono::seconds deadline = std::chrono::seconds(30)) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) {
      return condition();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace sluice::test
