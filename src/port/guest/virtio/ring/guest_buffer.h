// GuestBuffer: what a ring hands out, one per buffer that the driver made available, with its segments
// checked and translated. It is private memory (D3); only what `data` points to is the guest's.
//
// A ring knows nothing of frames: it gives buffers and takes back how much was written. Whether somebody
// copies into a buffer or a NIC writes there is not its business.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "stats/counter.h"

namespace sluice {

enum class Direction : std::uint8_t {
  kToGuest,    // receive queues: every descriptor must be for us to write
  kFromGuest,  // transmit queues: none may be
};

// Most segments of one buffer, and most descriptors of one chain (D6). Linux uses up to MAX_SKB_FRAGS + 2
// (47), QEMU refuses more than 1024.
inline constexpr std::uint32_t kMaxSegments = 256;
// Pieces of one burst: a ring stops handing out when the next buffer might not fit (D6).
inline constexpr std::uint32_t kSegmentStore = 1024;

// Budgets of one turn of a worker, all queues of its lane together (D6). The driver makes buffers available
// while we take them, on another CPU, so no loop may count on their running out.
//
// Descriptors that are walked to put chains and indirect tables together; a descriptor alone costs none.
// Enough for 13 bursts of Linux's longest receive buffers (19 descriptors).
inline constexpr std::uint32_t kWalkedPerTurn = 16 * 1024;
// Most that one chain of a packed ring walks to find its end; a longer one breaks the ring. QEMU refuses more
// than 1024, and so many are left in the budget whenever a chain is begun.
inline constexpr std::uint32_t kLongestChain = 1024;
// Buffers of receive queues that are given back without a frame in them.
inline constexpr std::uint32_t kWastedPerTurn = 64;

struct GuestSegment {
  std::byte* data = nullptr;
  std::uint32_t bytes = 0;
};

// What rings need to put buffers together: room for the segments of a burst, and what is left of the turn's
// budget.
struct SegmentStore {
  std::array<GuestSegment, kSegmentStore> segment;
  std::uint32_t used = 0;
  std::uint32_t walk_left = kWalkedPerTurn;

  // Whether one more chain, as long as it may be, fits both.
  bool has_room_for_a_chain() const {
    return used <= kSegmentStore - kMaxSegments && walk_left >= kLongestChain;
  }
};

// Why a buffer is bad. It is counted by who gives the buffer back unused, not by the ring that hands it out:
// what was handed out may be taken back, and is then handed out again.
enum class BufferFault : std::uint8_t { kUnmapped, kEmpty, kDirection, kSegments, kIndirect };

struct GuestBuffer {
  std::byte* data = nullptr;      // the buffer when it is in one segment; null: in segments, or bad
  std::uint32_t bytes = 0;        // of all segments; 0: bad, to be given back unused and counted
  std::uint32_t written = 0;      // by us, when it is given back
  std::uint16_t id = 0;           // names it when it is given back
  std::uint16_t descriptors = 1;  // packed: how far the ring moves on
  std::uint16_t position = 0;     // where it was taken: untake() goes back to it
  std::uint16_t first_segment = 0;
  std::uint16_t segments = 0;  // in the store; 0 when `data` says all
  BufferFault fault{};         // of a bad one
};
static_assert(sizeof(GuestBuffer) == 32);

// What a driver did that none may. Written by whoever serves the ring (one thread at a time).
struct RingCounters {
  // The ring stops: where it goes on is not known.
  Counter fault_ring_index;  // split: the available index moved by more than the ring has
  Counter fault_ring_head;   // split: a chain begins behind the table
  Counter fault_ring_chain;  // a chain leaves the table, has no end, or mixes NEXT and INDIRECT
  // One buffer is lost.
  Counter fault_buffer_unmapped;   // not wholly in guest memory
  Counter fault_buffer_empty;      // a descriptor of no bytes
  Counter fault_buffer_direction;  // for reading where it should be for writing, or the other way round
  Counter fault_buffer_pieces;     // more than kMaxSegments, or more than 4 GiB
  Counter fault_buffer_indirect;   // a table of no whole descriptors, of too many, in a table, not negotiated
  Counter fault_buffer_header;     // no room for the header

  Counter& of(BufferFault fault) {
    switch (fault) {
      case BufferFault::kUnmapped:
        return fault_buffer_unmapped;
      case BufferFault::kEmpty:
        return fault_buffer_empty;
      case BufferFault::kDirection:
        return fault_buffer_direction;
      case BufferFault::kSegments:
        return fault_buffer_pieces;
      case BufferFault::kIndirect:
        return fault_buffer_indirect;
    }
    std::unreachable();
  }

  Counter packets, kicks, calls, calls_suppressed;
  Counter fault_kick_fd, fault_call_fd;  // what the front-end gave to kick or call by is no eventfd
};

}  // namespace sluice
