// Ticks: the CPU's own clock, for times that are read several times per burst. One instruction on x86-64,
// where now_ns() takes fifty; elsewhere now_ns() itself.
#pragma once

#include <cstdint>

#include "base/clock.h"

namespace sluice {

inline std::uint64_t now_ticks() {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#else
  return now_ns();
#endif
}

// Measured once, over 2 ms; the error is far below one part in a hundred.
inline double ticks_per_ns() {
  static const double kRate = [] {
    const std::uint64_t ns = now_ns(), ticks = now_ticks();
    std::uint64_t passed = 0;
    while ((passed = now_ns() - ns) < 2'000'000) {
    }
    return static_cast<double>(now_ticks() - ticks) / static_cast<double>(passed);
  }();
  return kRate;
}

}  // namespace sluice
