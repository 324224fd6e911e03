// Copies of frames: exact, without a call for what is short.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace sluice {

// `bytes` in Half .. 2 * Half: the first and the last Half, which may overlap. Both are read before either is
// written.
template <std::size_t Half>
inline void copy_halves(std::byte* to, const std::byte* from, std::size_t bytes) {
  struct Block {
    std::byte byte[Half];
  } first, last;
  std::memcpy(&first, from, Half);
  std::memcpy(&last, from + bytes - Half, Half);
  std::memcpy(to, &first, Half);
  std::memcpy(to + bytes - Half, &last, Half);
}

// Not over each other.
inline void copy_bytes(std::byte* to, const std::byte* from, std::size_t bytes) {
  if (bytes > 128) {
    std::memcpy(to, from, bytes);
  } else if (bytes > 64) {
    copy_halves<64>(to, from, bytes);
  } else if (bytes > 32) {
    copy_halves<32>(to, from, bytes);
  } else if (bytes > 16) {
    copy_halves<16>(to, from, bytes);
  } else {
    for (std::size_t i = 0; i < bytes; ++i) {
      to[i] = from[i];
    }
  }
}

}  // namespace sluice
