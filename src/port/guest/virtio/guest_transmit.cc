// Frames out of the guest's transmit queues.
//
// A burst goes in two steps: first the head of every frame is copied to private memory, then those copies are
// judged, and what was judged is what is sent (D3). Bodies stay in the guest's buffers, in as many segments
// as they have there; the buffers are given back when the burst is done.
#include <algorithm>

#include "base/check.h"
#include "port/copy_bytes.h"
#include "port/guest/virtio/guest_lane.h"
#include "port/guest/virtio/net_header.h"

namespace sluice {

namespace {

std::uint64_t load_u64(const std::byte* from) {
  std::uint64_t value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// Reads the segments of a buffer, one after the other.
class Gather {
 public:
  Gather(const GuestBuffer& buffer, const SegmentStore& store) {
    if (buffer.segments == 0) {
      from_ = buffer.data;
      left_ = buffer.bytes;
    } else {
      segments_ = std::span(store.segment).subspan(buffer.first_segment, buffer.segments);
    }
  }

  void read(std::byte* to, std::size_t bytes) {
    while (bytes > 0) {
      next_if_empty();
      const std::size_t part = std::min<std::size_t>(bytes, left_);
      copy_bytes(to, from_, part);
      from_ += part;
      left_ -= static_cast<std::uint32_t>(part);
      to += part;
      bytes -= part;
    }
  }
  // Where the next `bytes` are, when they are in one segment; else null.
  const std::byte* in_place(std::size_t bytes) {
    next_if_empty();
    return left_ >= bytes ? from_ : nullptr;
  }
  // What is left, segment by segment.
  template <typename Visit>
  void rest(Visit visit) {
    next_if_empty();
    visit(Segment{from_, left_});
    for (const GuestSegment& segment : segments_) {
      visit(Segment{segment.data, segment.bytes});
    }
  }

 private:
  void next_if_empty() {
    if (left_ == 0 && !segments_.empty()) {
      from_ = segments_.front().data;
      left_ = segments_.front().bytes;
      segments_ = segments_.subspan(1);
    }
    SLUICE_CHECK(left_ > 0, "more to read than the buffer has");
  }

  std::span<const GuestSegment> segments_;
  const std::byte* from_ = nullptr;
  std::uint32_t left_ = 0;
};

}  // namespace

// From as many queues as the burst has room for. Who begins moves on by one each time, so that a queue that
// is always full keeps nobody out.
std::uint32_t GuestLane::burst(std::span<Packet> packets, BurstInfo& info) {
  GuestScratch& scratch = scratch_;
  SLUICE_CHECK(scratch.tx_taken == 0, "{} buffers of the last burst are not done", scratch.tx_taken);
  packets = packets.first(std::min<std::size_t>(packets.size(), kBurst));
  scratch.share_count = 0;
  scratch.body_segments_used = 0;
  scratch.most_segments = 1;
  scratch.bytes_left = kTakenPerTurn;
  std::uint32_t taken = 0;
  const std::size_t queues = transmit_.size();
  transmit_first_ = transmit_first_ + 1 < queues ? transmit_first_ + 1 : 0;
  std::size_t at = transmit_first_;
  // One buffer is at most one packet, so what is left of the burst is what may be taken.
  for (std::size_t i = 0; i < queues && scratch.tx_taken < packets.size(); ++i) {
    Virtqueue& queue = *transmit_[at];
    at = at + 1 == queues ? 0 : at + 1;
    if (queue.memory_lost()) [[unlikely]] {
      continue;
    }
    queue.with_ring([&](auto& ring) {
      taken += take_frames(queue, ring, packets.subspan(taken, packets.size() - scratch.tx_taken));
      if (ring.broken()) [[unlikely]] {
        queue.note_broken();
      }
    });
  }
  info.uplink = policy_.uplink;
  info.most_segments = scratch.most_segments;
  scratch.tx_out = taken;
  if (taken == 0) {
    finish_tx();  // nothing of it is out, so nobody will call done()
  }
  return taken;
}

template <typename Ring>
std::uint32_t GuestLane::take_frames(Virtqueue& queue, Ring& ring, std::span<Packet> packets) {
  GuestScratch& scratch = scratch_;
  scratch.segments.used = 0;
  scratch.segments.walk_left = walk_left_;
  const std::uint32_t first = scratch.tx_taken;
  std::uint32_t count =
      ring.take(std::span(scratch.tx_buffers).subspan(first, packets.size()), scratch.segments);
  const std::uint32_t copied = copy_heads(queue, std::span(scratch.tx_buffers).subspan(first, count), first);
  walk_left_ = scratch.segments.walk_left;
  if (copied < count) [[unlikely]] {
    ring.untake(scratch.tx_buffers[first + copied]);
    refused_ += kBurst;  // there is more, so another turn comes
    count = copied;
  }
  if (!scratch.segments.has_room_for_a_chain()) [[unlikely]] {
    refused_ += kBurst;  // what the budget left behind is the next turn's
  }
  if (count == 0) {
    return 0;
  }
  asm volatile(""
               :
               : "r"(scratch.heads.data())
               : "memory");  // D3: from here on only the copies are looked at
  const std::uint32_t taken = judge_heads(packets, first, count);
  queue.counters().packets.add(taken);
  scratch.shares[scratch.share_count++] = {.queue = &queue, .first = first, .count = count};
  scratch.tx_taken += count;
  refused_ += count - taken;
  return taken;
}

// Fills heads and bodies from slot `first` on. Returns for how many of the buffers: fewer when the next one
// is more than the turn's bytes, or there is no room for its segments.
std::uint32_t GuestLane::copy_heads(Virtqueue& queue, std::span<const GuestBuffer> buffers,
                                    std::uint32_t first) {
  GuestScratch& scratch = scratch_;
  const std::uint32_t header_bytes = queue.header_bytes();
  for (std::uint32_t i = 0; i < buffers.size(); ++i) {
    const GuestBuffer& buffer = buffers[i];
    const std::uint32_t slot = first + i;
    const std::uint32_t length = buffer.bytes - header_bytes;  // of a buffer without room for it: huge
    if (buffer.data == nullptr || length - kMinFrameBytes > longest_ - kMinFrameBytes) [[unlikely]] {
      if (!take_in_segments(queue, buffer, slot)) {
        return i;
      }
      continue;
    }
    if (length > scratch.bytes_left) [[unlikely]] {
      return i;
    }
    GuestScratch::Body& body = scratch.bodies[slot];
    scratch.bytes_left -= length;
    if (!net_header_is_plain(load_u64(buffer.data))) [[unlikely]] {
      counters_.fault_tx_header.add(1);
      body.head_bytes = 0;
      continue;
    }
    const std::byte* frame = buffer.data + header_bytes;
    body.head_bytes = std::min(length, most_head_);
    body.data = frame + body.head_bytes;
    body.bytes = length - body.head_bytes;
    copy_bytes(scratch.head_room(slot), frame, body.head_bytes);
  }
  return static_cast<std::uint32_t>(buffers.size());
}

// A buffer that is in segments, too short, too long or bad. False: it is the next burst's.
bool GuestLane::take_in_segments(Virtqueue& queue, const GuestBuffer& buffer, std::uint32_t slot) {
  const std::uint32_t header_bytes = queue.header_bytes();
  GuestScratch& scratch = scratch_;
  GuestScratch::Body& body = scratch.bodies[slot];
  body.head_bytes = 0;
  if (buffer.bytes == 0) {
    queue.counters().of(buffer.fault).add(1);
    return true;
  }
  if (buffer.bytes < header_bytes + kMinFrameBytes) {
    counters_.drop_tx_runt.add(1);
    return true;
  }
  const std::uint32_t length = buffer.bytes - header_bytes;
  if (length > longest_) {
    counters_.drop_tx_too_long.add(1);
    return true;
  }
  if (length > scratch.bytes_left || scratch.body_segments_used > kSegmentStore - kMaxSegments) {
    return false;
  }
  scratch.bytes_left -= length;
  Gather gather(buffer, scratch.segments);
  std::array<std::byte, kNetHeaderBytes> header{};
  gather.read(header.data(), header_bytes);
  if (!net_header_is_plain(load_u64(header.data()))) {
    counters_.fault_tx_header.add(1);
    return true;
  }
  const std::uint32_t head_bytes = std::min(length, most_head_);
  gather.read(scratch.head_room(slot), head_bytes);
  body.bytes = length - head_bytes;
  body.data = body.bytes == 0 ? scratch.head_room(slot) : gather.in_place(body.bytes);
  if (body.data == nullptr) {
    Segment* const begin = scratch.body_segments.data() + scratch.body_segments_used;
    Segment* end = begin;
    gather.rest([&end](const Segment& segment) { *end++ = segment; });
    const std::span<const Segment> segments(begin, end);
    scratch.extras[slot].segments = segments;
    scratch.body_segments_used += static_cast<std::uint32_t>(segments.size());
    scratch.most_segments = std::max(scratch.most_segments, static_cast<std::uint16_t>(segments.size()));
    counters_.tx_segmented.add(1);
  }
  body.head_bytes = head_bytes;
  return true;
}

std::uint32_t GuestLane::judge_heads(std::span<Packet> packets, std::uint32_t first, std::uint32_t count) {
  GuestScratch& scratch = scratch_;
  std::uint32_t taken = 0;
  std::uint64_t bytes = 0;
  guard_.begin_burst(count);
  for (std::uint32_t slot = first; slot < first + count; ++slot) {
    const GuestScratch::Body& body = scratch.bodies[slot];
    if (body.head_bytes == 0) [[unlikely]] {
      continue;  // no frame, and counted
    }
    std::byte* head = scratch.head_room(slot);
    std::uint32_t head_bytes = body.head_bytes;
    if (!guard_.admit(head, head_bytes, body.bytes == 0, counters_.source)) [[unlikely]] {
      continue;
    }
    packets[taken] = Packet{.body = body.data,
                            .head = head,
                            .body_bytes = body.bytes,
                            .head_bytes = static_cast<std::uint16_t>(head_bytes),
                            .port = policy_.uplink};
    if (body.data == nullptr) [[unlikely]] {
      packets[taken].extra = &scratch.extras[slot];
    }
    bytes += body.bytes + head_bytes;
    ++taken;
  }
  counters_.tx_packets.add(taken);
  counters_.tx_bytes.add(bytes);
  return taken;
}

void GuestLane::done(std::span<const Packet> packets) {
  SLUICE_CHECK(packets.size() == scratch_.tx_out, "{} done of {} packets out", packets.size(),
               scratch_.tx_out);
  if (!packets.empty()) {
    finish_tx();
  }
}

// Gives every buffer of the burst back, in the order in which they were taken.
void GuestLane::finish_tx() {
  GuestScratch& scratch = scratch_;
  for (const GuestScratch::Share& share : std::span(scratch.shares).first(scratch.share_count)) {
    const auto buffers = std::span<const GuestBuffer>(scratch.tx_buffers).subspan(share.first, share.count);
    share.queue->with_ring([buffers](auto& ring) {
      ring.give_back(buffers);
      ring.publish();
    });
    touch(*share.queue);
  }
  scratch.share_count = 0;
  scratch.tx_taken = 0;
  scratch.tx_out = 0;
}

}  // namespace sluice
