// What a port asks of the control side that it stands on. Control thread, but for pressure().
//
//   LaneTable    the workers' tables of lanes, and the pause between two bursts in which they are changed
//   PortStates   what the NICs' programs know of a port
//   QueueOwner   the RX queues whose memory is the port's
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/ids.h"
#include "base/result.h"
#include "port/port.h"

namespace sluice {

class Arena;
class PagePool;

class LaneTable {
 public:
  virtual ~LaneTable() = default;
  // The worker's table has / no longer has the lane when this returns.
  virtual void install_lane(PortId port, WorkerId worker, Lane* lane) = 0;
  virtual void remove_lane(PortId port, WorkerId worker) = 0;

  // Runs `change` while none of `workers` is inside a lane: between two bursts of all of them at once.
  // kShort: false when one of them did not come soon; then it has not run, and may be tried again later.
  enum class Patience : std::uint8_t { kShort, kForEver };
  virtual bool pause(std::span<const WorkerId> workers, Patience patience,
                     const std::function<void()>& change) = 0;
};

class PortStates {
 public:
  virtual ~PortStates() = default;
  // The XDP program drops packets for a detached port early, as drop_no_reader.
  virtual void set_attached(PortId port, bool attached) = 0;
  // Any worker thread, on a change only.
  virtual void set_pressure(PortId port, WorkerId worker, bool on) = 0;
};

// A queue that a port's domain owns: `pages` of its pool come on top of the port's limit.
struct OwnedQueue {
  NicId nic{0};
  QueueId queue{0};
  WorkerId worker{0};       // who serves the queue
  std::uint32_t pages = 0;  // pages_for_queue(options, 0)
};

class QueueOwner {
 public:
  virtual ~QueueOwner() = default;
  // The port's queues begin to open over this arena, and are tried again where that fails. `pools` is
  // parallel to its OwnedQueues.
  virtual Result<void> open_queues(PortId port, Arena& arena, std::span<PagePool* const> pools) = 0;
  // Some of them are opening, or waiting to: an app that is let in now would not get their packets yet.
  virtual bool queues_are_opening(PortId port) const = 0;
  // They begin to close. `closed` is called, at once or later, also when the port is gone by then, when
  // nothing writes into the arena any more (D7) and its pages are back in their pools.
  virtual void close_queues(PortId port, std::function<void()> closed) = 0;
};

// All of them outlive the port.
struct PortServices {
  LaneTable& lanes;
  PortStates& states;
  QueueOwner& queues;
};

}  // namespace sluice
