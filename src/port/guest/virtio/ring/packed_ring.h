// PackedRing: the device's side of a packed virtqueue (virtio 1.2, 2.8), both directions. One thread at a
// time.
//
//   descriptor ring   both write   {address, bytes, id, flags}[entries]
//
// The driver makes a descriptor available by flags AVAIL = its wrap counter and USED = the opposite; we write
// a used one over it with both equal to ours. A used descriptor stands where the next one is due and the ring
// moves on by as many descriptors as the buffer had. Of one burst, the first used descriptor's flags are
// written last, so that the driver sees all or none.
#pragma once

#include <cstdint>
#include <span>

#include "base/untrusted.h"
#include "port/guest/virtio/dirty.h"
#include "port/guest/virtio/guest_memory.h"
#include "port/guest/virtio/ring/buffer_builder.h"
#include "port/guest/virtio/ring/guest_buffer.h"
#include "port/guest/virtio/ring/ring_layout.h"
#include "port/guest/virtio/ring/ring_read.h"
#include "port/guest/virtio/ring/vring.h"

namespace sluice {

class PackedRing {
 public:
  PackedRing(const VringSetup& setup, Direction direction, const GuestMemory& memory, RingCounters& counters);

  // As those of SplitRing.
  std::uint32_t take(std::span<GuestBuffer> buffers, SegmentStore& store);
  void untake(const GuestBuffer& first) { next_avail_ = Position(first.position); }
  void give_back(std::span<const GuestBuffer> buffers);
  void publish();
  bool call_due();
  void ask_for_kicks();
  void refuse_kicks();
  bool has_available() const {
    return !broken_ && next_avail_.is_available(read_word(next_avail_.at, std::memory_order_acquire));
  }
  bool broken() const { return broken_; }
  VringBase base() const { return {.avail = next_avail_.word(), .used = next_used_.word()}; }

 private:
  // Everything of a descriptor but its address, as it stands in memory: bytes, id << 32, flags << 48.
  static constexpr std::uint64_t kAvailFlag = std::uint64_t{1} << (48 + VRING_PACKED_DESC_F_AVAIL);
  static constexpr std::uint64_t kUsedFlag = std::uint64_t{1} << (48 + VRING_PACKED_DESC_F_USED);

  // Where one of us stands: an index and the wrap counter of this round.
  struct Position {
    std::uint16_t at = 0;
    bool wrap = true;

    Position() = default;
    explicit Position(std::uint16_t word) : at(word & 0x7fff), wrap((word >> 15) != 0) {}
    std::uint16_t word() const { return static_cast<std::uint16_t>(at | (wrap ? 0x8000 : 0)); }
    bool is_available(std::uint64_t flags) const {
      return (flags & (kAvailFlag | kUsedFlag)) == (wrap ? kAvailFlag : kUsedFlag);
    }
    std::uint64_t used_flags() const { return wrap ? kAvailFlag | kUsedFlag : 0; }
    void advance(std::uint32_t descriptors, std::uint16_t entries) {
      const std::uint32_t next = at + descriptors;  // descriptors <= entries
      const bool over = next >= entries;
      at = static_cast<std::uint16_t>(over ? next - entries : next);
      wrap = wrap != over;
    }
  };

  std::uint64_t* word_of(std::uint16_t at) const {
    return reinterpret_cast<std::uint64_t*>(&descriptors_[at]) + 1;
  }
  std::uint64_t read_word(std::uint16_t at, std::memory_order order = std::memory_order_relaxed) const {
    return ring_read(*word_of(at), order);
  }
  bool take_chain(Position at, std::uint64_t address, std::uint64_t word, std::uint32_t room,
                  GuestBuffer& buffer, SegmentStore& store);
  void take_indirect(std::uint64_t address, std::uint32_t bytes, BufferBuilder& builder);
  void break_ring(Counter& fault) {
    fault.add(1);
    broken_ = true;
  }

  vring_packed_desc* descriptors_;
  std::uint32_t* driver_event_;  // vring_packed_desc_event as one word: off_wrap, flags << 16
  std::uint32_t* device_event_;
  GuestWindow window_;
  RingCounters& counters_;
  const std::uint16_t entries_;
  const Direction direction_;
  const bool event_idx_;
  const bool indirect_;
  const bool one_used_per_batch_;    // IN_ORDER, and nobody needs lengths
  const std::uint64_t plain_flags_;  // of a buffer that is one descriptor in the right direction
  const std::uint64_t written_flag_;

  Position next_avail_;
  Position next_used_;
  // The first used descriptor since the last publish(): held back until then.
  bool pending_ = false;
  std::uint16_t pending_at_ = 0;
  std::uint64_t pending_word_ = 0;
  std::uint32_t used_since_call_ = 0;  // descriptors, since a call was last considered
  bool broken_ = false;
  bool begun_ = false;  // served once
};

}  // namespace sluice
