// When this thread last woke a peer or told the kernel of frames to send: the moment before that system call,
// in ticks. What the call itself takes is the sleeper's wake-up, or the kernel's way to the wire.
#pragma once

#include <cstdint>

namespace sluice {

inline thread_local std::uint64_t rung_ticks = 0;

}  // namespace sluice
