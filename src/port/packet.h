// Packet: a frame in a worker's hand, for the length of one burst.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/ids.h"

namespace sluice {

// What a worker takes from one source per turn (D6), in packets and in bytes. A burst of full pages, each
// with a tag pushed in front, fits: only guests and taps with longer frames meet the second bound.
inline constexpr std::uint32_t kBurst = 64;
inline constexpr std::uint32_t kTurnBytes = kBurst * (4096 + 4);
// Bytes of a peer's frame copied to private memory before judging it.
inline constexpr std::uint32_t kMaxHead = 128;

// A part of a frame, in one piece of memory.
struct Segment {
  const std::byte* data = nullptr;
  std::uint32_t bytes = 0;
};

// What a frame's sender has left to others to do. No port is offered that yet: every frame is complete.
struct Offload {
  enum class Checksum : std::uint8_t {
    kComplete,
    kPartial,  // the sum over what follows checksum_start is still to be put in
    kChecked,  // complete, and known to be right
  };
  enum class Gso : std::uint8_t { kNone, kTcp4, kTcp6, kUdp };

  Checksum checksum = Checksum::kComplete;
  Gso gso = Gso::kNone;
  std::uint16_t checksum_start = 0;
  std::uint16_t checksum_offset = 0;  // from there to the field
  std::uint16_t gso_bytes = 0;        // of payload in each frame that it becomes

  bool operator==(const Offload&) const = default;
};

// What only few packets have. It is the source's, and valid until Source::done().
struct PacketExtra {
  std::span<const Segment> segments;  // of the body; empty: Packet::body is all of it
  Offload offload;
};

// The frame is head followed by body. A packet from the wire has no head: its body lies in a page of
// BurstInfo::domain, which the worker holds. A packet that an app or guest sends has its first bytes as a
// private copy in `head`, so that what was judged is what is sent (D3); its body is still in the peer's
// memory, and `page` is kNone.
//
// Most bodies lie in one segment, and so they are said here and not in a list: what few packets have is
// behind one pointer, and costs the others nothing. 40 bytes are copied when a burst is grouped; 8 more are
// 3 % more instructions per packet.
struct Packet {
  const std::byte* body = nullptr;  // null: there is none, or it lies in several segments
  const std::byte* head = nullptr;
  const PacketExtra* extra = nullptr;
  std::uint32_t body_bytes = 0;       // of all its segments
  PageIndex page = PageIndex::kNone;  // of the source's arena; kNone once somebody has taken it over
  std::uint32_t rule = raw(RuleSlot::kNone);
  std::uint16_t head_bytes = 0;  // at most kMaxHead
  PortId port = PortId::kDrop;   // where it goes

  std::uint32_t bytes() const { return head_bytes + body_bytes; }
  std::span<const Segment> segments() const {
    return extra != nullptr ? extra->segments : std::span<const Segment>();
  }
  Offload offload() const { return extra != nullptr ? extra->offload : Offload{}; }
};
static_assert(sizeof(Packet) == 40);

// The first bytes of a frame in one piece. A head is made of kMaxHead bytes or the whole frame, so what
// headers say is in it, unless the frame ends earlier. A frame without a head has its body in one segment.
inline std::span<const std::byte> front_of(const Packet& packet) {
  return packet.head_bytes != 0 ? std::span(packet.head, packet.head_bytes)
                                : std::span(packet.body, packet.body_bytes);
}

// What all packets of one burst have in common.
struct BurstInfo {
  DomainId domain = DomainId::kHost;  // of the pages
  PortId port = PortId::kKernel;  // the app, guest or tap that sends; kKernel: the wire. The worker's word
  PortId uplink = PortId::kDrop;  // the NIC's port that `port` sends by: whose neighbours hear a flood
  NicId nic{0};
  QueueId queue{0};
  std::uint16_t most_segments = 1;  // of a body in this burst
  bool more = false;                // the source stopped at kTurnBytes: another turn before the worker rests
  std::uint64_t timestamp_ns = 0;   // the worker's word as well
};

}  // namespace sluice
