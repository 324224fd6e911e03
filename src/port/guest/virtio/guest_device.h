// GuestDevice: the data half of a guest port: its virtqueues and the memory they lie in.
//
// The control thread changes a device only inside LaneTable::pause(), when no worker is in any lane of
// it. A transmit queue is served by one worker; a receive queue may be filled by several, one burst at a time
// (BurstLock), because a guest may have fewer queues than we have workers.
#pragma once

#include <bitset>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/ids.h"
#include "base/mac.h"
#include "port/guest/virtio/guest_memory.h"
#include "port/guest/virtio/ring/vring.h"
#include "port/port.h"
#include "port/source_guard.h"
#include "port/waker.h"
#include "stats/counter.h"

namespace sluice {

class CallPrice;
class WorkerScratch;

struct GuestPolicy {
  PortId port{0};
  PortId uplink = PortId::kDrop;
  std::vector<MacAddress> macs;
  std::uint16_t vlan = 0;
  bool trust = false;
  SourceLimits limits;        // `source_ip` and rates
  std::uint32_t serving = 0;  // the first so many workers of the list have queues of their own; 0: all
  Waker* waker = nullptr;     // calls a guest that is dear to call; none: lanes do, whatever it costs
  std::shared_ptr<WorkerScratch> scratch = nullptr;  // of the workers, for all guests; none: one of its own
};

class GuestDevice {
 public:
  GuestDevice(GuestPolicy policy, std::vector<WorkerId> workers, std::uint32_t queue_pairs);
  ~GuestDevice();

  // Who has to do with any of these rings: of a transmit queue, the worker that serves it; of a receive
  // queue, all, for any of them may fill it.
  std::vector<WorkerId> workers_of(const std::bitset<kMaxVrings>& rings) const;

  // One lane per worker of the constructor's list; they live as long as the device.
  Lane& lane(WorkerId worker);

  // --- control thread, inside quiesce() ---
  // Rings that run go on with it, so their areas must have moved too: stop_ring() before, start_ring() with
  // the base it returned after. Nothing is lost by that.
  void set_memory(std::shared_ptr<const GuestMemory> memory);
  // A ring begins: its place in memory is known. It carries nothing until it is enabled, and a receive and a
  // transmit queue carry on their own. Not started: a ring that was started already is stopped first.
  void start_ring(std::uint32_t index, const VringSetup& setup);
  void enable_ring(std::uint32_t index, bool enabled);
  // Of a started ring. The device duplicates what it is given: yours may be closed at any time.
  void set_call_fd(std::uint32_t index, int fd);
  void set_kick_fd(std::uint32_t index, int fd);
  // Ends it, and says where it stands: everything taken has been given back by then. Not started: base as it
  // was set last, or zeroes. Stays enabled if it is.
  VringBase stop_ring(std::uint32_t index);
  // All rings, and the memory they lay in. Allocates nothing: it is how a session ends when no memory is
  // left.
  void stop_all(std::shared_ptr<const GuestMemory> nothing);

  // --- any thread ---
  struct RingState {
    bool started = false, enabled = false;
    bool broken = false;  // the guest put something into it that no driver may; stopped until started anew
    std::uint64_t kicks = 0, calls = 0, calls_suppressed = 0, packets = 0;
    WorkerId worker{0};
  };
  RingState ring_state(std::uint32_t index) const;
  void visit(CounterVisitor& visitor) const;
  const CallPrice& call_price() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
