// BufferBuilder: collects the descriptors of one chain into a GuestBuffer, for both ring formats. The path of
// buffers that are not one plain descriptor in one region.
#pragma once

#include <algorithm>

#include "port/guest/virtio/guest_memory.h"
#include "port/guest/virtio/ring/guest_buffer.h"

namespace sluice {

class BufferBuilder {
 public:
  BufferBuilder(GuestWindow& window, SegmentStore& store, Direction direction)
      : window_(window), store_(store), direction_(direction), first_(store.used) {}

  // A lie about this buffer: it is bad from now on, and the first lie is its fault.
  void fault(BufferFault fault) {
    if (!bad_) {
      bad_ = true;
      fault_ = fault;
    }
  }
  bool bad() const { return bad_; }

  // One more descriptor was read: counted whether it is of use or not.
  void add(std::uint64_t address, std::uint32_t bytes, bool writable) {
    --store_.walk_left;
    if (bad_) {
      return;
    }
    if (writable != (direction_ == Direction::kToGuest)) {
      return fault(BufferFault::kDirection);
    }
    if (bytes == 0) {
      return fault(BufferFault::kEmpty);
    }
    if (total_ + bytes > UINT32_MAX) {
      return fault(BufferFault::kSegments);
    }
    total_ += bytes;
    if (std::byte* data = window_.at(address, bytes); data != nullptr) [[likely]] {
      return add_piece(data, bytes);
    }
    add_straddling(address, bytes);
  }

  void finish(GuestBuffer& buffer) {
    if (bad_) {
      store_.used = first_;
      buffer.data = nullptr;
      buffer.bytes = 0;
      buffer.segments = 0;
      buffer.fault = fault_;
      return;
    }
    const std::uint32_t count = store_.used - first_;
    buffer.bytes = static_cast<std::uint32_t>(total_);
    buffer.data = count == 1 ? store_.segment[first_].data : nullptr;
    buffer.first_segment = static_cast<std::uint16_t>(first_);
    buffer.segments = count == 1 ? std::uint16_t{0} : static_cast<std::uint16_t>(count);
    store_.used = count == 1 ? first_ : store_.used;
  }

 private:
  void add_piece(std::byte* data, std::uint32_t bytes) {
    if (store_.used - first_ == kMaxSegments) {
      return fault(BufferFault::kSegments);
    }
    store_.segment[store_.used++] = GuestSegment{data, bytes};
  }
  // Over the border of adjacent regions; at most one segment per region, and kMaxSegments.
  void add_straddling(std::uint64_t address, std::uint32_t bytes) {
    while (bytes > 0 && !bad_) {
      const auto part = window_.memory().prefix(address, bytes);
      if (part.empty()) {
        return fault(BufferFault::kUnmapped);
      }
      add_piece(part.data(), static_cast<std::uint32_t>(part.size()));
      address += part.size();  // that wraps is nowhere: no region does
      bytes -= static_cast<std::uint32_t>(part.size());
    }
  }

  GuestWindow& window_;
  SegmentStore& store_;
  const Direction direction_;
  const std::uint32_t first_;
  std::uint64_t total_ = 0;
  bool bad_ = false;
  BufferFault fault_{};
};

}  // namespace sluice
