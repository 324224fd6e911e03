// Asks for cache lines ahead of time. Harmless for any address.
#pragma once

#include <cstddef>

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

inline constexpr std::size_t kMostPrefetched = 1536;  // of a frame: two of them fit the first-level cache

// What a copy of `bytes` will touch from `first` on, on both sides; asked for while the frame before it is
// copied. A frame is a stream of at most 24 lines, and over before the hardware has seen that it is one:
// without this each begins with a wait for lines that another core wrote (1500 bytes into a guest: 3.5 -> 5.6
// M/s).
inline void prefetch_copy(std::byte* to, const std::byte* from, std::size_t bytes, std::size_t first) {
  const std::size_t end = bytes < kMostPrefetched ? bytes : kMostPrefetched;
  for (std::size_t at = first; at < end; at += 64) {
    prefetch_to_read(from + at);
    prefetch_to_write(to + at);
  }
}

}  // namespace sluice
