// SplitRing: the device's side of a split virtqueue (virtio 1.2, 2.7), both directions. One thread at a time.
//
//   descriptor table   the driver writes   {address, bytes, flags, next}[entries]
//   available ring     the driver writes   flags, idx, head[entries], used_event
//   used ring          we write            flags, idx, {head, written}[entries], avail_event
//
// Index `next_avail_` says what has been taken, `next_used_` what has been given back; both are ours alone
// (D3) and the used ring is never read.
#pragma once

#include <cstdint>
#include <cstring>
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

class SplitRing {
 public:
  SplitRing(const VringSetup& setup, Direction direction, const GuestMemory& memory, RingCounters& counters);

  // Hands out up to buffers.size() (at most kBurst) available buffers, in order. Bad ones are among them.
  std::uint32_t take(std::span<GuestBuffer> buffers, SegmentStore& store);
  // `first` and all that were taken after it are available again.
  void untake(const GuestBuffer& first) { next_avail_ = first.position; }
  // Says what was written into each. The driver sees it when it is published.
  void give_back(std::span<const GuestBuffer> buffers) {
    std::uint16_t used = next_used_;  // a member would go through memory after every write to the ring
    for (const GuestBuffer& buffer : buffers) {
      vring_used_elem& slot = used_->ring[used++ & mask_];
      const vring_used_elem element{.id = buffer.id, .len = buffer.written};
      std::memcpy(&slot, &element, sizeof element);  // nobody looks here before the index says so
      mark_dirty(&slot, sizeof slot);
    }
    next_used_ = used;
  }
  void publish() {
    write_once(used_->idx, next_used_, std::memory_order_release);
    mark_dirty(&used_->idx, sizeof used_->idx);
  }

  // Whether the driver wants to be interrupted for what was published since the last time this was asked.
  // The caller puts a full fence between publish() and this.
  bool call_due();
  // How the driver is to treat us: kick when there is something new, or leave us alone. A full fence, and
  // another look (has_available), belong behind asking.
  void ask_for_kicks();
  void refuse_kicks();
  bool has_available() const {
    return !broken_ && ring_read(avail_->idx, std::memory_order_acquire) != next_avail_;
  }

  bool broken() const { return broken_; }
  VringBase base() const { return {.avail = next_avail_, .used = next_used_, .in_memory = base_in_memory_}; }

 private:
  void begin();
  struct Descriptor {
    std::uint64_t address = 0;
    std::uint32_t bytes = 0;
    std::uint16_t flags = 0;
    std::uint16_t next = 0;
  };
  static Descriptor read_descriptor(const vring_desc& shared);
  void take_chain(const Descriptor& first, GuestBuffer& buffer, SegmentStore& store);
  void take_indirect(const Descriptor& table, BufferBuilder& builder);
  void break_ring(Counter& fault) {
    fault.add(1);
    broken_ = true;
  }

  const vring_desc* descriptors_;
  vring_avail* avail_;
  vring_used* used_;
  const std::uint16_t* used_event_;
  std::uint16_t* avail_event_;
  GuestWindow window_;
  RingCounters& counters_;
  const std::uint16_t entries_;
  const std::uint16_t mask_;
  const std::uint16_t plain_flags_;  // of a buffer that is one descriptor in the right direction
  const Direction direction_;
  const bool event_idx_;
  const bool indirect_;

  std::uint16_t next_avail_;
  std::uint16_t next_used_;
  std::uint16_t avail_seen_;     // the driver's index when it was read last
  std::uint16_t called_at_ = 0;  // next_used_ when a call was last considered
  bool called_ever_ = false;
  bool broken_ = false;
  bool begun_ = false;  // served once
  bool base_in_memory_;
};

}  // namespace sluice
