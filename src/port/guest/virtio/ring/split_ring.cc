#include "port/guest/virtio/ring/split_ring.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>

#include "base/check.h"
#include "port/guest/virtio/net_header.h"
#include "port/guest/virtio/ring/prefetch.h"
#include "port/port.h"

namespace sluice {

SplitRing::SplitRing(const VringSetup& setup, Direction direction, const GuestMemory& memory,
                     RingCounters& counters)
    : descriptors_(reinterpret_cast<const vring_desc*>(setup.descriptors)),
      avail_(reinterpret_cast<vring_avail*>(setup.driver_area)),
      used_(reinterpret_cast<vring_used*>(setup.device_area)),
      used_event_(&avail_->ring[setup.entries]),
      avail_event_(reinterpret_cast<std::uint16_t*>(&used_->ring[setup.entries])),
      window_(memory),
      counters_(counters),
      entries_(setup.entries),
      mask_(static_cast<std::uint16_t>(setup.entries - 1)),
      plain_flags_(direction == Direction::kToGuest ? VRING_DESC_F_WRITE : 0),
      direction_(direction),
      event_idx_(has_feature(setup.features, VIRTIO_RING_F_EVENT_IDX)),
      indirect_(has_feature(setup.features, VIRTIO_RING_F_INDIRECT_DESC)),
      next_avail_(setup.base.avail),
      next_used_(setup.base.used),
      avail_seen_(setup.base.avail),
      base_in_memory_(setup.base.in_memory) {
  SLUICE_CHECK(std::has_single_bit(setup.entries) && setup.entries <= kMaxVringEntries, "{} entries",
               setup.entries);
}

// At the first service. What was under way with the back-end before us is done again.
void SplitRing::begin() {
  begun_ = true;
  if (base_in_memory_) {
    base_in_memory_ = false;
    next_avail_ = next_used_ = avail_seen_ = ring_read(used_->idx);
  }
  refuse_kicks();
}

inline SplitRing::Descriptor SplitRing::read_descriptor(const vring_desc& shared) {
  // Two loads: `bytes`, `flags` and `next` stand in one word.
  const auto* words = reinterpret_cast<const std::uint64_t*>(&shared);
  const std::uint64_t rest = ring_read(words[1]);
  return {.address = ring_read(words[0]),
          .bytes = static_cast<std::uint32_t>(rest),
          .flags = static_cast<std::uint16_t>(rest >> 32),
          .next = static_cast<std::uint16_t>(rest >> 48)};
}

std::uint32_t SplitRing::take(std::span<GuestBuffer> buffers, SegmentStore& store) {
  if (broken_) [[unlikely]] {
    return 0;
  }
  if (!begun_) [[unlikely]] {
    begin();
  }
  const auto wanted = static_cast<std::uint32_t>(std::min<std::size_t>(buffers.size(), kBurst));
  std::uint32_t available = static_cast<std::uint16_t>(avail_seen_ - next_avail_);
  if (available < wanted) {
    avail_seen_ = ring_read(avail_->idx, std::memory_order_acquire);
    available = static_cast<std::uint16_t>(avail_seen_ - next_avail_);
    if (available > entries_) [[unlikely]] {
      break_ring(counters_.fault_ring_index);
      return 0;
    }
  }
  const std::uint32_t count = std::min(wanted, available);
  std::array<std::uint16_t, kBurst> heads;
  std::uint32_t beyond = 0;  // counts heads behind the table
  for (std::uint32_t i = 0; i < count; ++i) {
    heads[i] = ring_read(avail_->ring[(next_avail_ + i) & mask_]);
    beyond += heads[i] >= entries_ ? 1 : 0;
    prefetch_to_read(&descriptors_[heads[i] & mask_]);
  }
  if (beyond != 0) [[unlikely]] {
    break_ring(counters_.fault_ring_head);
    return 0;
  }
  std::uint32_t taken = 0;
  for (; taken < count; ++taken) {
    const Descriptor descriptor = read_descriptor(descriptors_[heads[taken]]);
    GuestBuffer& buffer = buffers[taken];
    buffer.id = heads[taken];
    buffer.position = static_cast<std::uint16_t>(next_avail_ + taken);
    buffer.written = 0;
    if (descriptor.flags == plain_flags_) [[likely]] {
      buffer.data = window_.at(descriptor.address, descriptor.bytes);
      if (buffer.data != nullptr) [[likely]] {
        buffer.bytes = descriptor.bytes;
        buffer.segments = 0;
        prefetch_buffer(buffer.data, direction_);
        continue;
      }
    }
    if (!store.has_room_for_a_chain()) {
      break;  // the next burst, or the next turn, has room
    }
    take_chain(descriptor, buffer, store);
    if (broken_) [[unlikely]] {
      return 0;
    }
  }
  next_avail_ = static_cast<std::uint16_t>(next_avail_ + taken);
  return taken;
}

void SplitRing::take_chain(const Descriptor& first, GuestBuffer& buffer, SegmentStore& store) {
  BufferBuilder builder(window_, store, direction_);
  // D6: a chain is no longer than the table, and than kMaxSegments; one with a loop in it is.
  const std::uint32_t longest = std::min<std::uint32_t>(entries_, kMaxSegments);
  Descriptor descriptor = first;
  for (std::uint32_t steps = 1;; ++steps) {
    if ((descriptor.flags & VRING_DESC_F_INDIRECT) != 0) {
      if ((descriptor.flags & VRING_DESC_F_NEXT) != 0) {
        return break_ring(counters_.fault_ring_chain);  // 2.7.5.3.1
      }
      take_indirect(descriptor, builder);
      break;
    }
    builder.add(descriptor.address, descriptor.bytes, (descriptor.flags & VRING_DESC_F_WRITE) != 0);
    if ((descriptor.flags & VRING_DESC_F_NEXT) == 0) {
      break;
    }
    if (descriptor.next >= entries_ || steps == longest) {
      return break_ring(counters_.fault_ring_chain);
    }
    descriptor = read_descriptor(descriptors_[descriptor.next]);
  }
  builder.finish(buffer);
}

// A lie in an indirect table costs its buffer: the ring itself is in order.
void SplitRing::take_indirect(const Descriptor& table, BufferBuilder& builder) {
  const std::uint32_t count = table.bytes / sizeof(vring_desc);
  if (!indirect_ || table.bytes % sizeof(vring_desc) != 0 || count == 0 || count > kMaxVringEntries) {
    return builder.fault(BufferFault::kIndirect);
  }
  const std::byte* at = window_.at(table.address, table.bytes);
  // A table that straddles two regions is legal in theory; no driver makes one, and it would need a copy.
  if (at == nullptr || reinterpret_cast<std::uintptr_t>(at) % alignof(vring_desc) != 0) {
    return builder.fault(BufferFault::kIndirect);
  }
  const auto* descriptors = reinterpret_cast<const vring_desc*>(at);
  std::uint32_t next = 0;
  for (std::uint32_t steps = 1; !builder.bad(); ++steps) {
    const Descriptor descriptor = read_descriptor(descriptors[next]);
    if ((descriptor.flags & VRING_DESC_F_INDIRECT) != 0) {
      return builder.fault(BufferFault::kIndirect);
    }
    builder.add(descriptor.address, descriptor.bytes, (descriptor.flags & VRING_DESC_F_WRITE) != 0);
    if ((descriptor.flags & VRING_DESC_F_NEXT) == 0) {
      return;
    }
    next = descriptor.next;
    if (next >= count || steps == std::min(count, kMaxSegments)) {
      return builder.fault(BufferFault::kIndirect);
    }
  }
}

bool SplitRing::call_due() {
  const std::uint16_t before = called_at_;
  if (before == next_used_ && called_ever_) {
    return false;
  }
  called_at_ = next_used_;
  if (!called_ever_) {
    called_ever_ = true;
    if (event_idx_) {
      return true;
    }
  }
  if (event_idx_) {
    // Did the index pass what the driver waits for? (2.7.7.2)
    const std::uint16_t event = ring_read(*used_event_);
    return static_cast<std::uint16_t>(next_used_ - event - 1) <
           static_cast<std::uint16_t>(next_used_ - before);
  }
  return (ring_read(avail_->flags) & VRING_AVAIL_F_NO_INTERRUPT) == 0;
}

void SplitRing::ask_for_kicks() {
  if (!begun_) [[unlikely]] {
    begin();
  }
  if (event_idx_) {
    write_once(*avail_event_, next_avail_);
    mark_dirty(avail_event_, sizeof *avail_event_);
  } else {
    write_once(used_->flags, std::uint16_t{0});
    mark_dirty(&used_->flags, sizeof used_->flags);
  }
}

// With EVENT_IDX there is nothing to refuse: an index left behind is passed once in 65536 buffers.
void SplitRing::refuse_kicks() {
  if (!event_idx_) {
    write_once(used_->flags, std::uint16_t{VRING_USED_F_NO_NOTIFY});
    mark_dirty(&used_->flags, sizeof used_->flags);
  }
}

}  // namespace sluice
