// Asks for a cache line ahead of time. Harmless for any address.
#pragma once

#include "port/guest/guest_buffer.h"

namespace sluice {

inline void prefetch_to_read(const void* line) {
  __builtin_prefetch(line, 0);
}

inline void prefetch_to_write(void* line) {
#if defined(__x86_64__)
  asm volatile("prefetchw %0" : : "m"(*static_cast<char*>(line)));
#else
  __builtin_prefetch(line, 1);
#endif
}

// The beginning of a buffer: the header's line, and the next one, where a short frame ends or begins. When
// the frame is written the header's line is mostly only read (net_header.h).
inline void prefetch_buffer(std::byte* data, Direction direction) {
  prefetch_to_read(data);
  direction == Direction::kToGuest ? prefetch_to_write(data + 64) : prefetch_to_read(data + 64);
}

}  // namespace sluice
