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
#include "port/control_port.h"
#include "port/peer_policy.h"
#include "port/port_services.h"
#include "port/source_guard.h"
#include "port/waker.h"
#include "stats/counter.h"

namespace sluice {

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
class AppPort final : public Port {
 public:
  // Makes the socket and listens on it. A port with owned queues makes its arena now, so that its queues are
  // served before an app comes; others make it when one attaches. Either way no two sessions share one (D2).
  static Result<std::unique_ptr<AppPort>> create(AppPortOptions options, EventLoop& loop,
                                                 const PortServices& services);
  ~AppPort() override;  // detaches, removes the socket's path

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

  PortId id() const override;
  // Counted `cut_off`. The next program waits.
  void cut_off_stalled(std::uint64_t nobody_for_ns) override;
  // zero_copy copied copied_bytes rx_packets rx_bytes tx_packets tx_bytes drop_* fault_* wakeups attaches
  // detaches ...
  void visit(CounterVisitor& visitor) const override;
  // Of the present session; of a port with owned queues also without one.
  void visit_pools(const std::function<void(const PagePool&)>& visit) const override;
  PortInfo info() const override;

 private:
  class Impl;  // app_port.cc
  explicit AppPort(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
