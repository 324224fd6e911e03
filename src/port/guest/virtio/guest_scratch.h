// GuestScratch: what one worker needs to serve guests' rings for the length of a burst. Of a worker and not
// of a lane: a worker serves one lane at a time, and a guest that is idle has one lane per worker.
//
//   receive    used within one copy_in()
//   transmit   from a lane's burst() to its done(); no other lane of the worker begins one meanwhile
//   segments   used within one ring's turn of either
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "base/ids.h"
#include "port/guest/virtio/ring/guest_buffer.h"
#include "port/port.h"
#include "port/vlan.h"

namespace sluice {

class Virtqueue;

struct GuestScratch {
  // Of the present burst towards a guest.
  std::array<GuestBuffer, kBurst> rx_buffers;
  std::array<Packet, kBurst> spread;

  // Of the transmit burst that is out.
  struct Share {  // one ring's
    Virtqueue* queue = nullptr;
    std::uint32_t first = 0, count = 0;  // in tx_buffers
  };
  std::array<GuestBuffer, kBurst> tx_buffers;
  std::array<Share, kBurst> shares;
  std::uint32_t share_count = 0;
  std::uint32_t tx_taken = 0;  // buffers
  std::uint32_t tx_out = 0;    // packets
  // Per buffer of it, until the burst is judged: where the frame's body is.
  struct Body {
    const std::byte* data = nullptr;  // null: in the segments of `extras`
    std::uint32_t bytes = 0;
    std::uint32_t head_bytes = 0;  // 0: no frame
  };
  std::array<Body, kBurst> bodies;
  // D3: the first bytes of each frame; judged here, sent from here. With room in front for a tag.
  static constexpr std::size_t kHeadFront = 16;
  static_assert(kHeadFront >= kVlanTagBytes);
  alignas(64) std::array<std::array<std::byte, kHeadFront + kMaxHead>, kBurst> heads;
  std::byte* head_room(std::uint32_t slot) { return heads[slot].data() + kHeadFront; }
  // Of bodies in several segments. A burst ends when those of the next one might not fit (D6).
  std::array<Segment, kSegmentStore> body_segments;
  std::uint32_t body_segments_used = 0;
  std::uint16_t most_segments = 1;  // of one body
  std::uint32_t bytes_left = 0;     // of the turn's
  std::array<PacketExtra, kBurst> extras;

  SegmentStore segments;  // its budget is the lane's, lent to it for a ring's turn
};

// Of all workers; made by the control thread, shared by all guest ports.
class WorkerScratch {
 public:
  // The same one whenever it is asked for; lives as long as this.
  GuestScratch& of(WorkerId worker) {
    auto& scratch = by_worker_[worker];
    if (scratch == nullptr) {
      scratch = std::make_unique<GuestScratch>();
    }
    return *scratch;
  }

 private:
  std::map<WorkerId, std::unique_ptr<GuestScratch>> by_worker_;
};

}  // namespace sluice
