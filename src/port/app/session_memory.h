// SessionMemory: all that one session of an app port shares with its app, and what keeps account of it.
// Control thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "abi/app.h"
#include "base/fd.h"
#include "base/result.h"
#include "door/doors.h"
#include "memory/arena.h"
#include "memory/ledger.h"
#include "memory/pool.h"
#include "port/app/app_lane.h"
#include "port/app/app_port.h"

namespace sluice {

// How much of everything, worked out from the options once.
//
//   RX arena = page_limit pages, split over the lanes' pools            what is copied in
//            + per owned queue: its pages + its lane's share            what the NIC needs + what may be lent
//            from it
struct SessionGeometry {
  std::uint32_t lane_count = 0;
  std::uint32_t rx_entries = 0;
  std::uint32_t back_entries = 0;
  std::uint32_t tx_entries = 0;
  std::uint32_t tx_slot_bytes = 0;
  std::uint32_t page_count = 0;  // of the RX arena, before it is rounded up to whole (huge) pages
  std::vector<std::uint32_t> lane_limit;
  std::uint64_t daemon_lane_stride = 0;
  std::uint64_t app_lane_stride = 0;
  std::uint64_t tx_arena_bytes = 0;

  // Errors: options that do not fit together, each in a sentence.
  static Result<SessionGeometry> of(const AppPortOptions& options);
};

class SessionMemory {
 public:
  static Result<std::unique_ptr<SessionMemory>> create(const AppPortOptions& options,
                                                       const SessionGeometry& geometry);
  // D7: the caller has made sure that nothing writes into the arena any more, and called reclaim().
  ~SessionMemory();

  Arena& arena() { return arena_; }
  std::span<PagePool* const> owned_pools() const {
    return owned_pools_;
  }  // parallel to AppPortOptions::owned
  LaneMemory lane(std::uint32_t index);

  // The part of the welcome that describes this memory.
  void describe(sluice_app_welcome& welcome) const;
  // Control thread, before a lane is given out: from now on the app can be woken. `waker`: for an app that is
  // dear to wake; none: it is woken by workers alone.
  void begin_wakes(Waker* waker, const std::shared_ptr<WakePrice>& price);
  // Control thread, when no worker has a lane any more: what the app has references to is closed elsewhere.
  void end_wakes();

  // In the order of abi/app.h. Borrowed: valid until drop_client_fds().
  std::vector<int> client_fds() const;
  // Once they are sent: the app has its own. Those of what the app writes are kept until it is sealed.
  void drop_client_fds();
  // What the app writes, once: to be sealed when it has mapped it, by any thread.
  struct AppFile {
    UniqueFd fd;
    std::size_t bytes = 0;
  };
  std::vector<AppFile> take_app_files();
  // They can be mapped, written and punched no more (D6); then they are closed: KeptMemory counts who has
  // them open. Waits for a punch that is under way.
  static Result<void> seal(std::vector<AppFile> files);
  // For KeptMemory, when the session is over: the files that the app was given.
  std::vector<UniqueFd> take_watched_files() { return std::move(watched_files_); }

  // Brings home what `holder` still has; returns how many pages. Afterwards nothing is in flight (CHECKed).
  std::uint32_t reclaim(PortId holder);
  void visit_pools(const std::function<void(const PagePool&)>& visit) const;

 private:
  SessionMemory() = default;
  Result<void> make_pools(const AppPortOptions& options);
  Result<void> make_segments(const AppPortOptions& options);
  Result<void> make_wakes();
  Result<void> watch_files();

  struct LaneWakes {
    UniqueFd app_ours;             // until begin_wakes()
    std::shared_ptr<AppWake> app;  // by a socket
    UniqueFd app_theirs;           // the app's end
    UniqueFd daemon;               // eventfd of the app's, to wake the worker by
    UniqueFd kicks;                // epoll over it, edge-triggered
  };

  SessionGeometry geometry_;
  Arena arena_;
  UniqueFd arena_fd_;  // the app's, read-only
  // A pool, its ledger and the lane whose worker owns both; lanes' pools first, then the owned queues'.
  struct Home {
    std::unique_ptr<PagePool> pool;
    std::unique_ptr<Ledger> ledger;
    LanePool range;
    std::uint32_t lane = 0;
  };
  std::vector<Home> homes_;  // behind arena_: pools must go first
  std::vector<PagePool*> owned_pools_;
  SharedSegment daemon_segment_, app_segment_, tx_arena_;
  Waker* waker_ = nullptr;
  bool wakes_begun_ = false;
  std::vector<LaneWakes> wakes_;
  std::vector<UniqueFd> watched_files_;
};

}  // namespace sluice
