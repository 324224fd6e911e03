// ActiveLanes: which lanes of a worker are polled in each turn, so that a port that nobody uses costs
// nothing.
//
//            quiet for kQuietTurns turns, may_rest(), prepare_sleep() found no work
//   active  ----------------------------------------------------------------------->  resting
//   polled  <-----------------------------------------------------------------------  its descriptor is
//   watched
//            readable, delivered to, or changed by the control thread: woken()
//
// No wake-up is lost: a lane rests only when it has asked its peer to wake it and has then looked once more
// (port.h, prepare_sleep), as before a sleep of the worker. The descriptor stays readable until woken().
// The worker's thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/ids.h"
#include "port/port.h"
#include "stats/counter.h"

namespace sluice {

class PortMeter;

// So many turns without work before a lane rests. Resting and being woken cost a few system calls, so a peer
// that does it as often as it can costs a small part of these turns.
inline constexpr std::uint32_t kQuietTurns = 256;

class ActiveLanes {
 public:
  using Entry = std::pair<PortId, Lane*>;

  ActiveLanes();
  // What looking into a lane's shared memory costs is its port's (port_meter.h). None: nobody's.
  void set_meter(PortMeter* meter) { meter_ = meter; }

  std::span<const Entry> lanes() const { return active_; }
  std::size_t resting() const { return resting_; }
  // Readable when a resting lane has work; -1 when none has ever rested.
  int wake_fd() const { return watched_.get(); }

  // After a call, which may have changed the tables and the lanes. Lanes that went are not touched: they may
  // be destroyed already.
  void refresh(std::span<const Entry> all);

  // What a lane did in a turn. True: some lane has been quiet for long; let_rest() is due.
  static bool note(Lane& lane, bool worked) {
    std::uint32_t& quiet = lane.activity.quiet_turns;
    quiet = worked ? 0 : quiet + 1;
    return quiet >= kQuietTurns;
  }
  // Lets the quiet ones rest.
  void let_rest();

  // Wakes those whose descriptors are readable; bounded (D6). True: the list has new lanes.
  bool look();
  // Wakes those that somebody delivered to (Forwarder::roused). True: the list has new lanes.
  bool rouse(std::vector<Lane*>& delivered_to);

  void visit(CounterVisitor& visitor) const;

 private:
  void enter(PortId port);
  void leave();
  bool rest(PortId port, Lane& lane);
  void wake(Lane& lane);
  bool watch(Lane& lane);
  void watch_anew(std::span<const Entry> all);

  PortMeter* meter_ = nullptr;
  std::vector<Entry> active_;
  std::size_t resting_ = 0;
  UniqueFd watched_;          // epoll over the resting lanes' descriptors
  std::uint64_t serial_ = 0;  // of watched_: a new one for each set
  Counter lanes_active_, lanes_resting_, rests_, rouses_;
};

}  // namespace sluice
