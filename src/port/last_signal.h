// When this thread last signalled a peer or the kernel in this turn: the moment before that system call, in
// ticks; 0: not yet. What the call itself takes is the sleeper's wake-up, or the kernel's way to the wire.
#pragma once

#include <cstdint>

namespace sluice {

inline thread_local std::uint64_t last_signal_ticks = 0;

}  // namespace sluice
