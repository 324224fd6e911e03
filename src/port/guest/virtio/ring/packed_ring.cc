#include "port/guest/virtio/ring/packed_ring.h"

#include <algorithm>

#include "base/check.h"
#include "port/guest/virtio/net_header.h"
#include "port/guest/virtio/ring/prefetch.h"
#include "port/port.h"

namespace sluice {

namespace {

constexpr std::uint64_t flag(std::uint16_t descriptor_flag) {
  return std::uint64_t{descriptor_flag} << 48;
}
constexpr std::uint64_t kNext = flag(VRING_DESC_F_NEXT);
constexpr std::uint64_t kWrite = flag(VRING_DESC_F_WRITE);
constexpr std::uint64_t kIndirect = flag(VRING_DESC_F_INDIRECT);
constexpr std::uint64_t kShape = kNext | kWrite | kIndirect;

constexpr std::uint32_t bytes_in(std::uint64_t word) {
  return static_cast<std::uint32_t>(word);
}
constexpr std::uint16_t id_in(std::uint64_t word) {
  return static_cast<std::uint16_t>(word >> 32);
}

}  // namespace

PackedRing::PackedRing(const VringSetup& setup, Direction direction, const GuestMemory& memory,
                       RingCounters& counters)
    : descriptors_(reinterpret_cast<vring_packed_desc*>(setup.descriptors)),
      driver_event_(reinterpret_cast<std::uint32_t*>(setup.driver_area)),
      device_event_(reinterpret_cast<std::uint32_t*>(setup.device_area)),
      window_(memory),
      counters_(counters),
      entries_(setup.entries),
      direction_(direction),
      event_idx_(has_feature(setup.features, VIRTIO_RING_F_EVENT_IDX)),
      indirect_(has_feature(setup.features, VIRTIO_RING_F_INDIRECT_DESC)),
      one_used_per_batch_(has_feature(setup.features, VIRTIO_F_IN_ORDER) &&
                          direction == Direction::kFromGuest),
      plain_flags_(direction == Direction::kToGuest ? kWrite : 0),
      written_flag_(direction == Direction::kToGuest ? kWrite : 0),
      next_avail_(setup.base.avail),
      next_used_(setup.base.used) {
  SLUICE_CHECK(
      entries_ > 0 && entries_ <= kMaxVringEntries && next_avail_.at < entries_ && next_used_.at < entries_,
      "{} entries, at {} and {}", entries_, next_avail_.at, next_used_.at);
}

std::uint32_t PackedRing::take(std::span<GuestBuffer> buffers, SegmentStore& store) {
  if (broken_) [[unlikely]] {
    return 0;
  }
  if (!begun_) [[unlikely]] {
    begun_ = true;
    refuse_kicks();
  }
  const auto wanted = static_cast<std::uint32_t>(std::min<std::size_t>(buffers.size(), kBurst));
  // In locals, as in give_back().
  Position at = next_avail_;
  std::uint32_t taken = 0;
  std::uint32_t room =
      entries_;  // D6: a burst has no more descriptors than the ring, whatever its driver says
  for (; taken < wanted && room > 0; ++taken) {
    const std::uint64_t word = read_word(at.at, std::memory_order_acquire);
    if (!at.is_available(word)) {
      break;
    }
    const std::uint64_t address = ring_read(descriptors_[at.at].addr);
    GuestBuffer& buffer = buffers[taken];
    buffer.position = at.word();
    buffer.written = 0;
    if ((word & kShape) == plain_flags_) [[likely]] {
      buffer.data = window_.at(address, bytes_in(word));
      if (buffer.data != nullptr) [[likely]] {
        buffer.bytes = bytes_in(word);
        buffer.id = id_in(word);
        buffer.descriptors = 1;
        buffer.segments = 0;
        prefetch_buffer(buffer.data, direction_);
        at.advance(1, entries_);
        --room;
        continue;
      }
    }
    if (!store.has_room_for_a_chain() || !take_chain(at, address, word, room, buffer, store)) {
      break;
    }
    at.advance(buffer.descriptors, entries_);
    room -= buffer.descriptors;
  }
  next_avail_ = at;
  return taken;
}

// A chain of at most `room` descriptors, and kLongestChain, which begins `at`. False: it is longer, or no
// chain; the ring is broken.
bool PackedRing::take_chain(Position at, std::uint64_t address, std::uint64_t word, std::uint32_t room,
                            GuestBuffer& buffer, SegmentStore& store) {
  BufferBuilder builder(window_, store, direction_);
  const std::uint32_t longest = std::min(room, kLongestChain);
  std::uint32_t descriptors = 1;  // every one of them is walked, to know where the chain ends
  for (;; ++descriptors) {
    if ((word & kIndirect) != 0) {
      if ((word & kNext) != 0 || descriptors > 1) {  // 2.8.8: an indirect descriptor stands alone
        break_ring(counters_.fault_ring_chain);
        return false;
      }
      take_indirect(address, bytes_in(word), builder);
    } else {
      builder.add(address, bytes_in(word), (word & kWrite) != 0);
    }
    if ((word & kNext) == 0) {
      break;
    }
    if (descriptors == longest) {
      break_ring(counters_.fault_ring_chain);
      return false;
    }
    at.advance(1, entries_);
    word = read_word(at.at);
    address = ring_read(descriptors_[at.at].addr);
  }
  builder.finish(buffer);
  buffer.id = id_in(word);  // 2.8.6: the last one's
  buffer.descriptors = static_cast<std::uint16_t>(descriptors);
  return true;
}

// 2.8.8: a table of descriptors in a row, without NEXT; of their flags only WRITE means something.
void PackedRing::take_indirect(std::uint64_t address, std::uint32_t bytes, BufferBuilder& builder) {
  const std::uint32_t count = bytes / sizeof(vring_packed_desc);
  if (!indirect_ || bytes % sizeof(vring_packed_desc) != 0 || count == 0 || count > kMaxSegments) {
    return builder.fault(BufferFault::kIndirect);
  }
  const std::byte* at = window_.at(address, bytes);
  if (at == nullptr || reinterpret_cast<std::uintptr_t>(at) % alignof(vring_packed_desc) != 0) {
    return builder.fault(BufferFault::kIndirect);
  }
  const auto* words = reinterpret_cast<const std::uint64_t*>(at);
  for (std::uint32_t i = 0; i < count && !builder.bad(); ++i) {
    const std::uint64_t word = ring_read(words[2 * i + 1]);
    if ((word & kIndirect) != 0) {
      return builder.fault(BufferFault::kIndirect);
    }
    builder.add(ring_read(words[2 * i]), bytes_in(word), (word & kWrite) != 0);
  }
}

void PackedRing::give_back(std::span<const GuestBuffer> buffers) {
  if (buffers.empty()) {
    return;
  }
  if (one_used_per_batch_) {
    // 2.8.7: one used descriptor, with the last buffer's id, for all of them.
    if (!pending_) {
      pending_ = true;
      pending_at_ = next_used_.at;
      pending_word_ = next_used_.used_flags();
    }
    pending_word_ = (pending_word_ & (kAvailFlag | kUsedFlag)) | std::uint64_t{buffers.back().id} << 32;
    for (const GuestBuffer& buffer : buffers) {
      next_used_.advance(buffer.descriptors, entries_);
      used_since_call_ += buffer.descriptors;
    }
    return;
  }
  // In locals: a member would go through memory after every write to the ring, which may be anything.
  Position used = next_used_;
  std::uint32_t moved = 0;
  for (const GuestBuffer& buffer : buffers) {
    const std::uint64_t word =
        std::uint64_t{buffer.written} | std::uint64_t{buffer.id} << 32 | written_flag_ | used.used_flags();
    if (!pending_) {
      pending_ = true;
      pending_at_ = used.at;
      pending_word_ = word;
    } else {
      write_once(*word_of(used.at), word);
      mark_dirty(word_of(used.at), sizeof word);
    }
    used.advance(buffer.descriptors, entries_);
    moved += buffer.descriptors;
  }
  next_used_ = used;
  used_since_call_ += moved;
}

void PackedRing::publish() {
  if (pending_) {
    pending_ = false;
    write_once(*word_of(pending_at_), pending_word_, std::memory_order_release);
    mark_dirty(word_of(pending_at_), sizeof pending_word_);
  }
}

bool PackedRing::call_due() {
  const std::uint32_t moved = used_since_call_;
  used_since_call_ = 0;
  if (moved == 0) {
    return false;
  }
  const std::uint32_t event = ring_read(*driver_event_);
  const std::uint32_t flags = event >> 16;
  if (!event_idx_ || flags != VRING_PACKED_EVENT_FLAG_DESC) {
    return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
  }
  if (moved >= entries_) {
    return true;
  }
  // Did we pass the position that the driver waits for? In positions of this round; one of the last round
  // stands below 0. (2.8.10)
  const auto waits_at = static_cast<std::int32_t>(event & 0x7fff);
  const bool waits_wrap = (event >> 15 & 1) != 0;
  const std::int32_t ends = next_used_.at;
  const std::int32_t waits = waits_wrap == next_used_.wrap ? waits_at : waits_at - entries_;
  return waits < ends && waits >= ends - static_cast<std::int32_t>(moved);
}

void PackedRing::ask_for_kicks() {
  const std::uint32_t flags = event_idx_ ? VRING_PACKED_EVENT_FLAG_DESC : VRING_PACKED_EVENT_FLAG_ENABLE;
  write_once(*device_event_, next_avail_.word() | flags << 16);
  mark_dirty(device_event_, sizeof *device_event_);
}

void PackedRing::refuse_kicks() {
  write_once(*device_event_, std::uint32_t{VRING_PACKED_EVENT_FLAG_DISABLE} << 16);
  mark_dirty(device_event_, sizeof *device_event_);
}

}  // namespace sluice
