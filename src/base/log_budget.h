// How many lines a peer can make the daemon log.
#pragma once

#include <cstdint>

#include "base/clock.h"

namespace sluice {

// At most `kLines` in any `kWindowNs`: connections come and go as fast as a peer likes (D6).
class LogBudget {
 public:
  bool take() {
    const std::uint64_t now = now_ns();
    if (now - window_began_ns_ >= kWindowNs) {
      window_began_ns_ = now;
      taken_ = 0;
    }
    return taken_++ < kLines;
  }

 private:
  static constexpr std::uint64_t kWindowNs = 10'000'000'000;
  static constexpr std::uint32_t kLines = 20;
  std::uint64_t window_began_ns_ = 0;
  std::uint32_t taken_ = 0;
};

}  // namespace sluice
