#pragma once

#include <cstdint>
#include <ctime>

namespace sluice {

// CLOCK_MONOTONIC in nanoseconds: the unit of packets' timestamps, timeouts and rates.
// A vDSO call, about 20 ns: once per burst, not per packet.
inline std::uint64_t now_ns() {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(time.tv_nsec);
}

}  // namespace sluice
