// Copies of frames: exact, without a call for what is short.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "port/packet.h"

namespace sluice {

// Bytes on their way, in registers. (An array of them would be put on the stack in between.)
template <std::size_t Bytes>
struct Block {
  Block<Bytes / 2> low, high;

  explicit Block(const std::byte* from) : low(from), high(from + Bytes / 2) {}
  void store(std::byte* to) const {
    low.store(to);
    high.store(to + Bytes / 2);
  }
};
template <>
struct Block<16> {
  unsigned __attribute__((vector_size(16))) bytes;

  explicit Block(const std::byte* from) { std::memcpy(&bytes, from, sizeof bytes); }
  void store(std::byte* to) const { std::memcpy(to, &bytes, sizeof bytes); }
};

// `bytes` in Half .. 2 * Half: the first and the last Half, which may overlap. Both are read before either is
// written.
template <std::size_t Half>
[[gnu::always_inline]] inline void copy_halves(std::byte* to, const std::byte* from, std::size_t bytes) {
  const Block<Half> first(from), last(from + bytes - Half);
  first.store(to);
  last.store(to + bytes - Half);
}

// Not over each other.
[[gnu::always_inline]] inline void copy_bytes(std::byte* to, const std::byte* from, std::size_t bytes) {
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

[[gnu::noinline]] inline void copy_segments(std::byte* to, std::span<const Segment> segments) {
  for (const Segment& segment : segments) {
    copy_bytes(to, segment.data, segment.bytes);
    to += segment.bytes;
  }
}

// Head, then body.
[[gnu::always_inline]] inline void copy_frame(std::byte* to, const Packet& packet) {
  if (packet.head_bytes != 0) {
    copy_bytes(to, packet.head, packet.head_bytes);
  }
  if (packet.body_bytes != 0) {
    if (packet.body != nullptr) [[likely]] {
      copy_bytes(to + packet.head_bytes, packet.body, packet.body_bytes);
    } else {
      copy_segments(to + packet.head_bytes, packet.segments());
    }
  }
}

}  // namespace sluice
