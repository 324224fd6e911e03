// GuestPort: a virtual machine, attached by vhost-user. Control thread; the workers see only its lanes
// (guest_lane.h).
//
//   message.h    syntax      is this a message?            (pure)
//   transport.h  transport   bytes and descriptors of a socket; in a process of its own, the door
//   guest_door.h             between that process and this one: whole messages, judged descriptors
//   session.h    semantics   what state a front-end has set up, and which message is right in it
//   guest_port.h policy      what the device offers, which worker serves which queue
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/choices.h"
#include "base/event_loop.h"
#include "base/ids.h"
#include "base/mac.h"
#include "base/result.h"
#include "door/doors.h"
#include "port/control_port.h"
#include "port/guest/vhost_user/memory_budget.h"
#include "port/peer_policy.h"
#include "port/port_services.h"
#include "port/source_guard.h"
#include "port/waker.h"
#include "stats/counter.h"

namespace sluice {

// How many front-ends one port takes at once. Each costs a process, its door.
inline constexpr std::uint32_t kFrontEndBurst = 20;

class CallPrice;
class WorkerScratch;

struct GuestPortOptions {
  PortId id{0};
  std::string name;    // "vm0"
  std::string socket;  // path of the Unix stream socket
  using Role = GuestRole;
  Role role = Role::kServer;
  // Server: who may connect. Client: who may be found listening; `everybody` is set without any other word:
  // whoever was able to make the path.
  PeerPolicy policy;
  std::vector<MacAddress> macs;   // at least one: what it may send from
  std::uint16_t vlan = 0;         // access VLAN, 1 .. 4094; 0: none, frames go as they are
  bool trust = false;             // no check of its source addresses and tags
  SourceLimits limits;            // `source_ip` and rates
  PortId uplink = PortId::kDrop;  // where frames go that are for nobody here; kDrop: nowhere
  std::vector<WorkerId> workers;  // one lane each
  std::uint32_t serving = 0;  // queue pairs go round the first so many of them, the others only deliver to
                              // the guest; 0: all
  std::uint32_t queue_pairs = 1;                          // most that it is offered, 1 .. kMaxQueuePairs
  std::uint64_t memory_bytes = std::uint64_t{256} << 30;  // most that its regions may take together
  MemoryShare::Budget all_memory = std::make_shared<MemoryBudget>();  // of all guests, theirs included
  bool sealed_memory = false;                         // its memory must be sealed against shrinking
  bool populate = false;                              // its memory is faulted in before its rings start
  std::uint64_t message_timeout_ns = 10'000'000'000;  // for the rest of a message whose beginning is here
  std::uint64_t gives_way_ns = 300'000'000;           // how long who comes waits for the end of who was there
  std::uint64_t held_up_ns = 700'000'000;             // and then, whether a door that is silent is held up
  std::uint64_t retry_ns = 500'000'000;               // client: between tries to connect
  std::uint64_t front_end_interval_ns = 500'000'000;  // server: after kFrontEndBurst, one in so long; 0: all
  Waker* waker = nullptr;                             // for a guest that is dear to call; outlives the port
  std::shared_ptr<WorkerScratch> scratch = nullptr;   // of the workers, for all guest ports
};

// Of a port: its socket, the word that memory is lost, an epoll set per lane. Of a session: its door, and the
// kick and the call of each ring, which session and lane have each their own of.
constexpr std::uint64_t guest_port_descriptors(std::uint64_t lanes) {
  return 2 + lanes;
}
constexpr std::uint64_t guest_session_descriptors(std::uint64_t queue_pairs) {
  return 3 + 8 * queue_pairs;
}

// Messages taken per turn of the control loop (D6).
inline constexpr std::uint32_t kMessagesPerTurn = 32;

// How many pauses of workers one port may cause. A front-end sets up a device of 64 queue pairs with fewer
// messages than the burst; a guest that reboots all the time needs a few pauses a second.
inline constexpr std::uint64_t kPausesPerSecond = 200;
inline constexpr std::uint32_t kPauseBurst = 512;

class GuestPort final : public Port {
 public:
  // Listens, or begins to connect. Installs its lanes at once: they stay for the port's life, and take
  // nothing while no driver is ready.
  static Result<std::unique_ptr<GuestPort>> create(GuestPortOptions options, EventLoop& loop,
                                                   const PortServices& services, Doors& doors);
  ~GuestPort() override;  // cuts the front-end off, takes the lanes out, removes the socket's path

  VhostInfo vhost() const;
  const CallPrice& call_price() const;
  const GuestPortOptions& options() const;

  PortId id() const override;
  // Counted `fault_stalled`.
  void cut_off_stalled(std::uint64_t nobody_for_ns) override;
  // copied copied_bytes rx_packets rx_bytes tx_packets tx_bytes kicks calls drop_* fault_* connects
  // disconnects messages ...
  void visit(CounterVisitor& visitor) const override;
  PortInfo info() const override;

 private:
  class Impl;  // guest_port.cc
  explicit GuestPort(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
