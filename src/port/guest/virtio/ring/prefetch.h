// What a guest's buffer is asked for ahead of time.
#pragma once

#include "port/guest/virtio/ring/guest_buffer.h"
#include "port/prefetch.h"

namespace sluice {

// The beginning of a buffer: the header's line, and the next one, where a short frame ends or begins. When
// the frame is written the header's line is mostly only read (net_header.h).
inline constexpr std::size_t kPrefetchedBytes = 128;
inline void prefetch_buffer(std::byte* data, Direction direction) {
  prefetch_to_read(data);
  direction == Direction::kToGuest ? prefetch_to_write(data + 64) : prefetch_to_read(data + 64);
}

}  // namespace sluice
