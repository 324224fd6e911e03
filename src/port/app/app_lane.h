// AppLane: one worker's end of an app port for one session. Hot path; used by that worker's thread alone.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "abi/app.h"
#include "base/ids.h"
#include "memory/ledger.h"
#include "memory/pool.h"
#include "port/app/app_counters.h"
#include "port/port.h"
#include "port/source_guard.h"
#include "port/vlan.h"
#include "port/waker.h"
#include "ring/spsc.h"

namespace sluice {

// Most pages taken back, and most wake-ups written, per turn of the worker (D6).
inline constexpr std::uint32_t kBackPerTurn = 4 * kBurst;

// A worker that goes on receiving wakes a sleeping app after so many turns: an app on the worker's own core
// would else take the core for each burst. With one queue that is a few hundred packets.
inline constexpr std::uint32_t kTurnsBeforeWake = 4;

// Wakes the app: a socket and not an eventfd. Both ends of an eventfd are one open file, so an app could
// clear its O_NONBLOCK, fill the counter and make a write of ours wait. MSG_DONTWAIT is ours alone. A full
// socket means it has been woken already.
class AppWake final : public WakeTarget {
 public:
  using WakeTarget::WakeTarget;
  bool wake() override;
};

// A pool whose pages this lane's worker owns, with its range of the arena and its own ledger: both have one
// writer.
struct LanePool {
  std::uint32_t first = 0;
  std::uint32_t count = 0;
  PagePool* pool = nullptr;
  Ledger* ledger = nullptr;
};

// Everything a lane uses, owned by the session's memory (session_memory.h), which outlives the lane.
struct LaneMemory {
  RingProducer<sluice_rx_entry> rx;
  RingConsumer<std::uint32_t> back;
  RingConsumer<sluice_tx_entry> tx;
  sluice_lane_stats* shared_stats = nullptr;
  const Arena* arena = nullptr;
  std::uint32_t page_count = 0;         // of all pools of all lanes
  std::vector<LanePool> pools;          // the lane's own first, then the owned queues that its worker serves
  const std::byte* tx_arena = nullptr;  // all lanes' slots: offsets of TX entries count from here
  std::uint32_t tx_first_offset = 0;    // of this lane's slot 0
  std::uint32_t tx_slot_bytes = 0;
  std::uint32_t page_limit = 0;  // this lane's share
  AppWake* wake_app = nullptr;
  int wake_daemon = -1;  // an epoll set of our own over the eventfd that the app writes
};

// What is the same for all sessions.
struct LanePolicy {
  PortId port{0};
  PortId uplink = PortId::kDrop;
  WorkerId worker{0};
  bool sends = false;      // the worker serves a queue of the uplink, or has a switch with ports on it
  std::uint16_t vlan = 0;  // access VLAN: popped from what the app gets
  SourcePolicy source;     // what it may send; its tag is pushed
  Waker* waker = nullptr;  // who wakes an app that is dear to wake; none: this lane itself
};

// How the port hears of pressure: on a change only, on the worker's thread.
class PressureSink {
 public:
  virtual ~PressureSink() = default;
  virtual void pressure(WorkerId worker, bool on) = 0;
};

class AppLane final : public Lane {
 public:
  AppLane(LaneMemory memory, const LanePolicy& policy, AppLaneCounters& counters, PressureSink& sink);

  void hand_over(const BurstInfo& info, std::span<Packet> packets) override;
  void copy_in(const BurstInfo& info, std::span<Packet> packets) override;
  std::uint32_t burst(std::span<Packet> packets, BurstInfo& info) override;
  void done(std::span<const Packet> packets) override;
  std::uint32_t poll() override;
  void before_rest() override { wake_app(); }
  bool peer_is_behind() override;
  int wake_fd() const override { return memory_.wake_daemon; }
  bool prepare_sleep() override;
  void woken() override;
  // Pages that are out come back without a wake-up.
  bool may_rest() const override { return lent_ == 0 && !published_ && tx_out_ == 0; }

  std::uint32_t pages_lent() const { return lent_; }
  // Control thread, when no worker has the lane any more.
  bool under_pressure() const { return pressure_; }

 private:
  // How many of `wanted` packets can be delivered now; what cannot is counted here, by its reason.
  std::uint32_t admit(std::uint32_t wanted);
  void write_entry(std::uint32_t slot, const BurstInfo& info, const Packet& packet, PageIndex page,
                   std::uint32_t offset);
  void delivered(std::uint32_t count, std::uint64_t bytes);
  std::uint32_t take_back();
  PagePool* take_back_one(std::uint32_t untrusted_page);
  const LanePool* pool_of(std::uint32_t page) const;
  bool admit_tx(const sluice_tx_entry& entry, std::uint32_t position) const;
  void take_over(const BurstInfo& info, std::span<Packet> packets);
  void copy_frames(const BurstInfo& info, std::span<const Packet> packets);
  bool is_of_our_vlan(const Packet& packet);
  Packet without_tag(Packet packet) const;
  std::uint32_t page_offset_of(const Packet& packet) const;
  void update_pressure();
  std::uint32_t taken_by_app();  // its rx index, as it says now
  void wake_app();
  void count_ring_faults();
  void publish_stats();

  LaneMemory memory_;
  const LanePolicy policy_;
  const bool has_address_;  // some address that its frames may come from
  const bool sends_;        // that, and a way out
  SourceGuard guard_;
  AppLaneCounters& counters_;
  PressureSink& sink_;
  const std::uint32_t page_mask_;  // of an address: where in its page

  std::uint32_t lent_ = 0;          // pages the app has by this lane
  std::uint32_t pressure_on_ = 0;   // lent_ from here on is pressure
  std::uint32_t pressure_off_ = 0;  // lent_ below this ends it
  bool pressure_ = false;
  bool published_ = false;           // entries since the app's flag was last looked at
  std::uint32_t turns_put_off_ = 0;  // polls since then that left the app asleep
  bool stats_changed_ = false;
  bool wake_under_way_ = false;            // a wake-up was sent, and the app's flag has been up since
  std::uint32_t taken_at_wake_ = 0;        // the app's rx index then
  std::uint32_t taken_when_behind_ = ~0u;  // the app's rx index when it was last said to be behind
  std::uint32_t tx_peeked_ = 0;            // entries of the TX burst that is out, refused ones among them
  std::uint32_t tx_out_ = 0;               // packets of it that are not done yet
  std::uint64_t ring_faults_ = 0;          // of all three rings, as counted so far
  sluice_lane_stats session_{};            // private; publish_stats() copies it out (D3)
  // D3: the first bytes of each frame of a TX burst; judged here, sent from here.
  // With room in front for a tag.
  static constexpr std::size_t kHeadFront = 16;
  static_assert(kHeadFront >= kVlanTagBytes);
  alignas(SLUICE_CACHE_LINE) std::array<std::array<std::byte, kHeadFront + kMaxHead>, kBurst> heads_;
};

}  // namespace sluice
