// burst_of: a source's next burst, for tests that do not ask where it came from.
#pragma once

#include <cstdint>
#include <span>

#include "port/port.h"

namespace sluice {

inline std::uint32_t burst_of(Source& source, std::span<Packet> packets) {
  BurstInfo info;
  return source.burst(packets, info);
}

}  // namespace sluice
