// Port: where packets enter or leave. Lane: one worker's private end of a port.
//
//   Source    gives the worker bursts of packets: a NIC queue, an app, a guest, the host's tap
//   Sink      takes them: the same, but for the queue of broadcasts, which only gives
//   Sleeper   has work of its own in each turn, and may wake a worker that sleeps
//   Polled    a source that the worker's loop goes over: Source and Sleeper
//   Lane      Sink and Polled
//
// The control thread makes ports and gives each worker its lanes; a lane is used by that worker's thread
// alone, so nothing here is locked. Virtual calls are per burst, never per packet.
#pragma once

#include <cstdint>
#include <span>

#include "base/ids.h"
#include "port/packet.h"
#include "stats/counter.h"

namespace sluice {

// Gives packets. Every call is made by its worker's thread.
class Source {
 public:
  virtual ~Source() = default;

  // Takes up to packets.size() (at most kBurst) packets of kTurnBytes at most, fills every field of the front
  // of `packets` (they hold an earlier burst), says in `info` what is not the worker's word; returns how
  // many. Not called again before done(). With 0 nothing is out, and done() does not come.
  virtual std::uint32_t burst(std::span<Packet> packets, BurstInfo& info) = 0;
  // All packets of the burst at once, in any order: what they point to is no longer used. Pages that nobody
  // took (page != kNone) go home, buffers go back to the peer.
  virtual void done(std::span<const Packet> packets) = 0;
};

// What a sink can take.
struct Capabilities {
  // Whose pages it takes over. Sinks that copy everything have kNoPages.
  static constexpr DomainId kNoPages{0xffff};
  DomainId pages_of = kNoPages;
  // Most segments of a body that is copied in. What lies in more is put together first, by the Forwarder.
  static constexpr std::uint32_t kAnySegments = 0xffff;
  std::uint32_t segments = kAnySegments;
  std::uint32_t bytes = 65535;  // of the longest frame; longer ones it drops, by name
};

// Takes packets. Every call is made by its worker's thread.
class Sink {
 public:
  explicit Sink(const Capabilities& accepts) : accepts_(accepts) {}
  virtual ~Sink() = default;

  const Capabilities& accepts() const { return accepts_; }

  // The one rule of the forwarding path (worker/forward/forward.h) calls exactly one of these two per burst
  // and port. Both count what they could not deliver, by name. What was not taken stays with the worker, who
  // gives it back to its source.
  //
  // Copies each frame once into memory of its own; takes no page.
  virtual void copy_in(const BurstInfo& info, std::span<Packet> packets) = 0;
  // Only when info.domain == accepts().pages_of, and every packet has a page. A packet that was taken gets
  // page = kNone and is the sink's from now on.
  virtual void hand_over(const BurstInfo& info, std::span<Packet> packets);

 private:
  const Capabilities accepts_;
};

// Has work in each turn, and may sleep. Every call is made by its worker's thread.
class Sleeper {
 public:
  virtual ~Sleeper() = default;

  // Once per turn of the worker's loop: takes back pages the peer returned, publishes, wakes the peer if it
  // sleeps, kicks the kernel. Bounded (D6). Returns how much it did: kBurst or more means that there is more
  // to do, and the worker takes another turn before it rests; with less it may nap or sleep.
  virtual std::uint32_t poll() { return 0; }
  // The worker has nothing more to do for now. A lane may put off waking its peer for a few turns, so that
  // the peer finds more than one burst; it ends here.
  virtual void before_rest() {}
  // Asked once per turn that leaves more to do. Its peer, if it lives on the worker's core, should run before
  // more comes: much of what was delivered is still there. The worker then naps once, but not more often than
  // every kTurnsBetweenYields turns, whatever lanes say (D6).
  virtual bool peer_is_behind() { return false; }

  // Going to sleep: the descriptor that becomes readable when there is work (or -1; the same one for its
  // whole life), and whether there is work already, looked at after asking to be woken. The worker sleeps in
  // epoll_wait (level-triggered), which does not kick an AF_XDP socket the way poll(2) does.
  virtual int wake_fd() const = 0;
  virtual bool prepare_sleep() = 0;
  // Once after each prepare_sleep(), also one that found work, whoever ended the sleep: asks no longer to be
  // woken, empties the descriptor.
  virtual void woken() {}

  // May this lane rest? It then gets prepare_sleep(), and neither burst() nor poll() until woken(), which
  // comes when its descriptor is readable or after frames were delivered to it. For lanes whose peer wakes
  // them with certainty, with nothing put off, and for those without a descriptor that only deliver.
  virtual bool may_rest() const { return false; }
};

// What a worker's loop goes over.
class Polled : public Source, public Sleeper {};

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

// One worker's end of a port.
class Lane : public Sink, public Polled {
 public:
  using Sink::Sink;

  LaneActivity activity;
};

}  // namespace sluice
