// Every operator new of the binary that links count_allocations.cc, so that a test can say: none per packet.
#pragma once

#include <cstdint>

namespace sluice {
std::uint64_t allocation_count();
}
