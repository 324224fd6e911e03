// Every operator new of the binary that links count_allocations.cc, so that a test can say: none per packet.
#pragma once

#include <cstdint>
#include <optional>

namespace sluice {
std::optional<std::uint64_t> allocation_count();  // none: cannot be counted in this build
}
