// Port: where packets enter or leave. Lane: one worker's private end of a port.
//
// The control thread makes ports and gives each worker its lanes; a lane is used by that worker's thread
// alone, so nothing here is locked. Virtual calls are per burst, never per packet.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/ids.h"
#include "stats/counter.h"

namespace sluice {

class PagePool;

inline constexpr std::uint32_t kBurst = 64;  // packets a worker takes from one source at a time (D6)
inline constexpr std::uint32_t kMaxHead =
    128;  // bytes of a peer's frame copied to private memory before judging it

// A packet in a worker's hand, for the length of one burst.
//
// The frame is head followed by body. A packet from the wire has no head: its body lies in a page of
// `domain`, which the worker holds. A packet that an app or guest sends has its first bytes as a private copy
// in `head`, so that what was judged is what is sent (D3); its body is still in the peer's memory and `page`
// is kNone.
struct Packet {
  const std::byte* body = nullptr;
  const std::byte* head = nullptr;
  std::uint32_t body_bytes = 0;
  std::uint32_t head_bytes = 0;
  PageIndex page = PageIndex::kNone;  // of the source's arena; kNone once somebody has taken it over
  std::uint32_t rule = raw(RuleSlot::kNone);
  PortId port = PortId::kDrop;    // where it goes
  std::uint16_t page_offset = 0;  // of body in its page

  std::uint32_t bytes() const { return head_bytes + body_bytes; }
};

// The first bytes of a frame in one piece. A head is made of kMaxHead bytes or the whole frame, so what
// headers say is in it, unless the frame ends earlier.
inline std::span<const std::byte> front_of(const Packet& packet) {
  return packet.head_bytes != 0 ? std::span(packet.head, packet.head_bytes)
                                : std::span(packet.body, packet.body_bytes);
}

// What all packets of one burst have in common.
struct Source {
  DomainId domain = DomainId::kHost;  // of the pages
  PortId port = PortId::kKernel;      // the app or guest that sends; kKernel for a NIC queue
  PortId uplink = PortId::kDrop;      // the NIC's port that `port` sends by: whose neighbours hear a flood
  NicId nic{0};
  QueueId queue{0};
  std::uint64_t timestamp_ns = 0;
};

// Kept by the worker that has the lane (worker/active_lanes.h), in the lane so that it is found at once.
struct LaneActivity {
  std::uint32_t quiet_turns = 0;  // without work
  PortId port = PortId::kDrop;
  bool peers_memory = false;  // a copy into or out of it may wait for its peer: a guest's
  bool resting = false;       // not polled: its descriptor is watched
  bool delivered = false;     // and got something meanwhile: in Forwarder::roused()
  bool changed = false;       // the control thread changed the lane while the worker was paused
  std::uint64_t serial = 0;   // of the set that watches it
};

// One worker's end of a port. Every call is made by that worker's thread.
class Lane {
 public:
  virtual ~Lane() = default;

  virtual DomainId domain() const = 0;

  // The one rule of the forwarding path (worker/forward/forward.h) calls exactly one of these two per burst
  // and port. hand_over: source.domain == domain(). A packet that was taken gets page = kNone and is the
  // lane's from now on.
  virtual void hand_over(const Source& source, std::span<Packet> packets) = 0;
  // copy_in: any other domain. Copies each frame once into memory of its own; takes no page.
  virtual void copy_in(const Source& source, std::span<Packet> packets) = 0;
  // Both count what they could not deliver, by name. What was not taken stays with the worker, who recycles
  // it.

  // Takes up to packets.size() (at most kBurst) packets that the peer wants to send; fills every field of the
  // front of `packets` (they hold an earlier burst), with page = kNone; returns how many. What they point to
  // stays valid until tx_done(), which comes with the same count. NIC lanes have nothing to send of this kind
  // and return 0.
  virtual std::uint32_t tx_burst(std::span<Packet> packets) = 0;
  virtual void tx_done(std::uint32_t count) = 0;

  // Once per turn of the worker's loop: takes back pages the peer returned, publishes, wakes the peer if it
  // sleeps, kicks the kernel. Bounded (D6). Returns how much it did: kBurst or more means that there is more
  // to do, and the worker takes another turn before it rests; with less it may nap or sleep.
  virtual std::uint32_t poll() = 0;
  // The worker has nothing more to do for now. A lane may put off waking its peer for a few turns, so that
  // the peer finds more than one burst; it ends here.
  virtual void before_rest() {}
  // Asked once per turn that leaves more to do. Its peer, if it lives on the worker's core, should run before
  // more comes: much of what was delivered is still there. The worker then naps once, but not more often than
  // every kTurnsBetweenYields turns, whatever lanes say (D6).
  virtual bool peer_is_behind() { return false; }

  // Going to sleep: the descriptor that becomes readable when this lane has work (or -1; the same one for the
  // lane's whole life), and whether there is work already, looked at after asking to be woken. The worker
  // sleeps in epoll_wait (level-triggered), which does not kick an AF_XDP socket the way poll(2) does.
  virtual int wake_fd() const = 0;
  virtual bool prepare_sleep() = 0;
  // Once after each prepare_sleep(), also one that found work, whoever ended the sleep: asks no longer to be
  // woken, empties the descriptor.
  virtual void woken() = 0;

  // May this lane rest? It then gets prepare_sleep(), and neither tx_burst() nor poll() until woken(), which
  // comes when its descriptor is readable or after frames were delivered to it. For lanes whose peer wakes
  // them with certainty, with nothing put off, and for those without a descriptor that only deliver.
  virtual bool may_rest() const { return false; }

  LaneActivity activity;
};

// A lane that also receives: one RX queue of one NIC. domain() is who owns the queue.
class Queue : public Lane {
 public:
  // Takes up to packets.size() (at most kBurst) packets from the NIC into the front of `packets` (every
  // field: they hold an earlier burst), says in `source` where they came from; returns how many.
  virtual std::uint32_t receive(std::span<Packet> packets, Source& source) = 0;
  // All packets of a burst, in any order: the pages that nobody took (page != kNone) go home to the queue's
  // pool.
  virtual void recycle(std::span<const Packet> packets) = 0;
};

}  // namespace sluice
