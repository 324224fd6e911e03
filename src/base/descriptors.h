// How many descriptors this process has, and may have. A port that needs more is refused by name, before a
// part of it is made.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace sluice {

// Kept for the control socket, reloads and refusals.
inline constexpr std::uint64_t kDescriptorsKept = 32;

std::uint64_t descriptors_used();
std::uint64_t descriptor_limit();  // RLIMIT_NOFILE, the soft one
// An error: "needs N descriptors, M are left; raise LimitNOFILE".
Result<void> need_descriptors(std::uint64_t count);

}  // namespace sluice
