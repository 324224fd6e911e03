// AppPort: a program that receives and sends. Control thread; the workers see only its lanes (app_lane.h).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/ids.h"
#include "base/mac.h"
#include "base/result.h"
#include "door/doors.h"
#include "memory/arena.h"
#include "memory/ledger.h"
#include "memory/pool.h"
#include "port/peer_policy.h"
#include "port/port.h"
#include "port/source_guard.h"
#include "port/waker.h"
#include "stats/counter.h"

namespace sluice {

// A queue that this port's domain owns: `pages` of its pool come on top of the port's limit.
struct OwnedQueue {
  NicId nic{0};
  QueueId queue{0};
  WorkerId worker{0};       // who serves the queue
  std::uint32_t pages = 0;  // pages_for_queue(options, 0)
};

struct AppPortOptions {
  PortId id{0};
  std::string name;  // "dns"
  std::string
      socket;  // path of the Unix SOCK_SEQPACKET socket, made with mode 0666: peers are judged by SO_PEERCRED
  PeerPolicy policy;           // who may attach
  std::uint32_t pages = 4096;  // limit of pages lent at one time, all lanes together
  std::uint32_t page_bytes = 2048;
  std::uint32_t ring_entries =
      0;  // of the rx ring per lane; 0: the power of two <= pages / lanes / 2, at least 64
  std::uint32_t tx_entries = 512;       // per lane
  std::vector<MacAddress> source_macs;  // what it may send from, the first is told to the app; none: it sends
                                        // nothing, but for `trust`
  std::uint16_t vlan = 0;               // access VLAN, 1 .. 4094; 0: none
  bool trust = false;                   // no check of its source addresses and tags
  SourceLimits limits;                  // `source_ip` and rates
  PortId uplink = PortId::kDrop;        // the NIC that its frames leave by
  std::vector<WorkerId> workers;        // one lane each
  std::vector<bool> worker_sends;       // parallel to workers: LanePolicy::sends
  std::vector<OwnedQueue> owned;        // empty: a port on shared queues
  std::uint64_t stall_timeout_ns =
      0;  // a lane's whole share is held so long without a return: cut off; 0: never
  std::uint64_t hello_timeout_ns =
      2'000'000'000;  // who connects and says nothing, or never maps its memory, is let go
  // Who reads what programs say and closes their sockets, on a kernel that cannot keep descriptors off them
  // (base/unix_socket.h). None: this process does both.
  Doors* doors = nullptr;
  std::uint64_t attach_interval_ns = 0;                  // between sessions, after a burst; 0: none
  ArenaOptions::Huge huge = ArenaOptions::Huge::kIfAny;  // pages of the RX arena
  Waker* waker = nullptr;                                // for an app that is dear to wake; outlives the port
};

// An app that comes while its port's queues are opening waits for its welcome so long at most; libsluice
// waits 1 s unless told otherwise. After that it is let in, and its packets come when the queues are open.
inline constexpr std::uint64_t kWelcomeWaitsNs = 500'000'000;

// Of a port: its socket. Of a session with so many lanes: its socket, the arena, the four files that are
// watched, a socket and an epoll set per lane; while it is made as many more.
inline constexpr std::uint64_t kAppPortDescriptors = 1;
constexpr std::uint64_t app_session_descriptors(std::uint64_t lanes) {
  return 6 + 2 * lanes;
}
constexpr std::uint64_t app_attach_descriptors(std::uint64_t lanes) {
  return 2 * app_session_descriptors(lanes);
}

// How often a port begins a session (`attach_rate`). A session costs an arena, so whoever attaches and goes
// again, as fast as it can, would make the machine allocate and free without end (D6). So many may begin at
// once: a program that is killed and started again a few times does not wait. Who comes too early waits too;
// nobody is refused for it.
inline constexpr std::uint32_t kAttachBurst = 5;

// Connections that have not said hello yet. One more, and the oldest of them is let go (D6).
inline constexpr std::size_t kMaxPendingHellos = 32;
// What an app port asks of the engine that wires everything. Calls come on the control thread.
class AppPortHost {
 public:
  virtual ~AppPortHost() = default;
  // The worker's table has / no longer has the lane when this returns.
  virtual void install_lane(PortId port, WorkerId worker, Lane* lane) = 0;
  virtual void remove_lane(PortId port, WorkerId worker) = 0;
  // The XDP program drops packets for a detached port early, as drop_no_reader.
  virtual void set_attached(PortId port, bool attached) = 0;
  // Any worker thread, on a change only.
  virtual void set_pressure(PortId port, WorkerId worker, bool on) = 0;
  // Owned queues: they begin to open over this arena, and are tried again where that fails. `pools` is
  // parallel to AppPortOptions::owned.
  virtual Result<void> open_queues(PortId port, Arena& arena, std::span<PagePool* const> pools) = 0;
  // Some of them are opening, or waiting to: an app that is let in now would not get their packets yet.
  virtual bool queues_are_opening(PortId) { return false; }
  // They begin to close. `closed` is called, at once or later, also when the port is gone by then, when
  // nothing writes into the arena any more (D7) and its pages are back in their pools.
  virtual void close_queues(PortId port, std::function<void()> closed) = 0;
};

class AppPort {
 public:
  // Makes the socket and listens on it. A port with owned queues makes its arena now, so that its queues are
  // served before an app comes; others make it when one attaches. Either way no two sessions share one (D2).
  static Result<std::unique_ptr<AppPort>> create(AppPortOptions options, EventLoop& loop, AppPortHost& host);
  ~AppPort();  // detaches, removes the socket's path

  struct Session {
    int pid = 0;
    std::uint32_t uid = 0;
    std::string client;  // what it called itself
    std::uint64_t since_ns = 0;
    std::uint32_t pages_held = 0;
  };
  std::optional<Session> session() const;  // none: nobody is served
  const WakePrice& wake_price() const;
  const AppPortOptions& options() const;
  // Detaches a program that held workers up; counted `cut_off`. The next one waits for so long.
  void cut_off_stalled(std::uint64_t nobody_for_ns);
  // zero_copy copied copied_bytes rx_packets rx_bytes tx_packets tx_bytes drop_* fault_* wakeups attaches
  // detaches ... Totals since the port was made, over all sessions and lanes.
  void visit(CounterVisitor& visitor) const;
  // Pools of the present session (of a port with owned queues: also without one), for `show pools`.
  void visit_pools(const std::function<void(const PagePool&)>& visit) const;

 private:
  class Impl;  // app_port.cc
  explicit AppPort(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
