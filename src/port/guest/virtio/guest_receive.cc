// Frames into the guest's receive queues.
#include <algorithm>
#include <bit>

#include "base/check.h"
#include "port/copy_bytes.h"
#include "port/flow_hash.h"
#include "port/guest/virtio/guest_lane.h"
#include "port/guest/virtio/net_header.h"
#include "port/guest/virtio/ring/prefetch.h"

namespace sluice {

namespace {

// Writes into the segments of some buffers, one after the other. Who uses it has made sure that they have
// room.
class Scatter {
 public:
  Scatter(std::span<const GuestBuffer> buffers, const SegmentStore& store)
      : buffers_(buffers), store_(store) {}

  void write(const std::byte* from, std::size_t bytes) {
    while (bytes > 0) {
      if (left_ == 0) {
        next_piece();
      }
      const std::size_t part = std::min<std::size_t>(bytes, left_);
      copy_bytes(to_, from, part);
      mark_dirty(to_, part);
      to_ += part;
      left_ -= static_cast<std::uint32_t>(part);
      from += part;
      bytes -= part;
    }
  }

 private:
  void next_piece() {
    SLUICE_CHECK(!buffers_.empty(), "more to write than the buffers take");
    const GuestBuffer& buffer = buffers_.front();
    if (buffer.segments == 0) {
      to_ = buffer.data;
      left_ = buffer.bytes;
      buffers_ = buffers_.subspan(1);
      return;
    }
    const GuestSegment& segment = store_.segment[buffer.first_segment + segment_];
    to_ = segment.data;
    left_ = segment.bytes;
    if (++segment_ == buffer.segments) {
      segment_ = 0;
      buffers_ = buffers_.subspan(1);
    }
  }

  std::span<const GuestBuffer> buffers_;
  const SegmentStore& store_;
  std::uint32_t segment_ = 0;
  std::byte* to_ = nullptr;
  std::uint32_t left_ = 0;
};

}  // namespace

void GuestLane::copy_in(const BurstInfo&, std::span<Packet> packets) {
  if (packets.empty()) {
    return;
  }
  SLUICE_CHECK(packets.size() <= kBurst, "a burst of {}", packets.size());
  if (wasted_left_ == 0) [[unlikely]] {
    counters_.drop_bad_buffers.add(packets.size());
  } else if (receive_.size() == 1) [[likely]] {
    deliver(*receive_.front(), packets);
  } else if (receive_.empty()) {
    counters_.drop_not_running.add(packets.size());
  } else {
    spread(packets);
  }
}

// By flow: a flow keeps its queue, and so its order.
void GuestLane::spread(std::span<const Packet> packets) {
  std::array<std::uint8_t, kBurst> queue_of;
  for (std::size_t i = 0; i < packets.size(); ++i) {
    const std::uint32_t hash = flow_hash_of(front_of(packets[i]));
    queue_of[i] = static_cast<std::uint8_t>((std::uint64_t{hash} * receive_.size()) >> 32);
  }
  std::uint64_t left = packets.size() == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << packets.size()) - 1;
  while (left != 0) {
    const std::uint8_t queue = queue_of[static_cast<std::size_t>(std::countr_zero(left))];
    std::uint32_t count = 0;
    for (std::uint64_t rest = left; rest != 0; rest &= rest - 1) {
      const auto i = static_cast<std::size_t>(std::countr_zero(rest));
      if (queue_of[i] == queue) {
        scratch_.spread[count++] = packets[i];
        left &= ~(std::uint64_t{1} << i);
      }
    }
    deliver(*receive_[queue], std::span(scratch_.spread).first(count));
  }
}

void GuestLane::deliver(Virtqueue& queue, std::span<const Packet> packets) {
  const BurstLock::Guard guard(queue.lock(), queue.shared());
  if (!guard) [[unlikely]] {
    counters_.drop_queue_busy.add(packets.size());
    return;
  }
  if (queue.broken() || queue.memory_lost()) [[unlikely]] {
    counters_.drop_not_running.add(packets.size());
    return;
  }
  queue.with_ring([&](auto& ring) {
    fill(queue, ring, packets);
    if (ring.broken()) [[unlikely]] {
      queue.note_broken();
    }
  });
}

// Every round delivers or drops a packet, wastes a buffer of the turn's budget, or asks once for as many
// buffers as a burst may have. None of these depends on what the driver does meanwhile (D6).
template <typename Ring>
void GuestLane::fill(Virtqueue& queue, Ring& ring, std::span<const Packet> packets) {
  GuestScratch& scratch = scratch_;
  scratch.segments.walk_left = walk_left_;
  bool gave = false;
  bool wants_more = false;
  while (!packets.empty()) {
    const std::size_t wanted = wants_more ? kBurst : packets.size();
    scratch.segments.used = 0;
    const std::uint32_t count = ring.take(std::span(scratch.rx_buffers).first(wanted), scratch.segments);
    if (count == 0) {
      counters_.drop_ring_full.add(packets.size());
      break;
    }
    const Filled filled = fill_buffers(queue, std::span(scratch.rx_buffers).first(count), packets);
    if (filled.buffers > 0) {
      ring.give_back(std::span<const GuestBuffer>(scratch.rx_buffers).first(filled.buffers));
      gave = true;
    }
    if (filled.buffers < count) {
      ring.untake(scratch.rx_buffers[filled.buffers]);
    }
    packets = packets.subspan(filled.packets);
    wasted_left_ -= std::min(filled.wasted, wasted_left_);
    if (wasted_left_ == 0) [[unlikely]] {
      counters_.drop_bad_buffers.add(packets.size());
      break;
    }
    if (filled.wants_more && wants_more && filled.buffers == 0 && filled.packets == 0) {
      // All there is, or all that a frame may have, is not enough for this one; the next may be shorter.
      (count == kBurst ? counters_.drop_too_long : counters_.drop_ring_full).add(1);
      packets = packets.subspan(1);
    }
    wants_more = filled.wants_more;
  }
  walk_left_ = scratch.segments.walk_left;
  if (gave) {
    ring.publish();
    touch(queue);
  }
}

GuestLane::Filled GuestLane::fill_buffers(Virtqueue& queue, std::span<GuestBuffer> buffers,
                                          std::span<const Packet> packets) {
  Filled filled;
  while (filled.buffers < buffers.size() && filled.packets < packets.size() && !filled.wants_more) {
    const auto buffers_left = buffers.subspan(filled.buffers);
    const auto packets_left = packets.subspan(filled.packets);
    Filled more;
    if (policy_.vlan == 0) [[likely]] {
      more = fill_whole(queue.header_bytes(), buffers_left, packets_left);
    }
    if (more.packets == 0) [[unlikely]] {
      more = fill_slowly(queue, buffers_left, packets_left.front());
    }
    filled.add(more);
  }
  counters_.copied.add(filled.delivered);
  counters_.copied_bytes.add(filled.bytes);
  counters_.rx_packets.add(filled.delivered);
  counters_.rx_bytes.add(filled.bytes);
  queue.counters().packets.add(filled.delivered);
  return filled;
}

// Frame after frame into buffer after buffer, until one does not fit a buffer in one segment.
GuestLane::Filled GuestLane::fill_whole(std::uint32_t header_bytes, std::span<GuestBuffer> buffers,
                                        std::span<const Packet> packets) {
  const std::size_t most = std::min(buffers.size(), packets.size());
  std::uint64_t bytes = 0;
  std::uint32_t count = 0;
  for (; count < most; ++count) {
    GuestBuffer& buffer = buffers[count];
    const Packet& packet = packets[count];
    const std::uint32_t frame_bytes = packet.bytes(), need = header_bytes + frame_bytes;
    std::byte* const to = buffer.data;
    if (to == nullptr || buffer.bytes < need) [[unlikely]] {
      break;
    }
    if (count + 1 < most && packets[count + 1].body_bytes > kPrefetchedBytes &&
        packets[count + 1].body != nullptr && buffers[count + 1].data != nullptr) {
      const Packet& next = packets[count + 1];
      prefetch_copy(buffers[count + 1].data, next.body, next.body_bytes, kPrefetchedBytes);
    }
    buffer.written = need;
    bytes += frame_bytes;
    write_net_header(to, header_bytes);
    copy_frame(to + header_bytes, packet);
    mark_dirty(to, need);
  }
  return {.buffers = count, .packets = count, .delivered = count, .bytes = bytes};
}

// A frame for which the first buffer is too short, in segments or bad, or that goes in without its tag.
GuestLane::Filled GuestLane::fill_slowly(Virtqueue& queue, std::span<GuestBuffer> buffers,
                                         const Packet& packet) {
  if (buffers.front().bytes < queue.header_bytes()) {
    RingCounters& counters = queue.counters();
    const GuestBuffer& bad = buffers.front();
    (bad.bytes == 0 ? counters.of(bad.fault) : counters.fault_buffer_header).add(1);
    return {.buffers = 1, .wasted = 1};  // given back with nothing in it
  }
  FrameSegments frame;
  if (!segments_for_access(packet, policy_.vlan, frame)) {
    counters_.drop_vlan.add(1);
    return {.packets = 1};
  }
  const std::uint64_t need = std::uint64_t{queue.header_bytes()} + frame.bytes;
  if (!queue.mergeable() && buffers.front().bytes < need) {
    counters_.drop_too_long.add(1);
    return {.packets = 1};
  }
  std::uint64_t room = 0;
  std::uint32_t used = 0;
  while (room < need) {
    if (used == buffers.size()) {
      return {.wants_more = true};
    }
    if (buffers[used].bytes == 0) {
      // A bad buffer in the middle: buffers come back in order, so those before it are lost with it.
      for (GuestBuffer& lost : buffers.first(used)) {
        lost.written = 0;
      }
      queue.counters().of(buffers[used].fault).add(1);
      return {.buffers = used + 1, .wasted = used + 1};
    }
    buffers[used].written =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(buffers[used].bytes, need - room));
    room += buffers[used].bytes;
    ++used;
  }
  std::array<std::byte, kNetHeaderBytes> header;
  make_net_header(header.data(), static_cast<std::uint16_t>(used));
  Scatter scatter(buffers.first(used), scratch_.segments);
  scatter.write(header.data(), queue.header_bytes());
  frame.for_each([&scatter](const Segment& segment) { scatter.write(segment.data, segment.bytes); });
  return {.buffers = used, .packets = 1, .delivered = 1, .bytes = frame.bytes};
}

}  // namespace sluice
