// Semantics of vhost-user: what a front-end has set up so far, and which message is right in that state.
// Control thread; knows no socket.
//
// A ring runs when it has a size, a place that is mapped wholly, a kick descriptor (or the word that there is
// none), and, where device status was negotiated, the driver's DRIVER_OK. Whether a running ring carries
// packets is SET_VRING_ENABLE's.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "port/guest/vhost_user/fault_guard.h"
#include "port/guest/vhost_user/memory_table.h"
#include "port/guest/vhost_user/message.h"
#include "port/guest/virtio/ring/vring.h"

namespace sluice {

// Rings by index.
using VringSet = std::bitset<kMaxVrings>;

// What a session does to the data half (guest_lane.h). Every call but quiesce() is made inside quiesce().
class VringControl {
 public:
  virtual ~VringControl() = default;
  // Runs `change` while no worker is in a lane that has to do with one of `rings`. kShort: false when a
  // worker did not come soon; then the change has not run.
  enum class Patience : std::uint8_t { kShort, kForEver };
  virtual bool quiesce(const VringSet& rings, Patience patience, const std::function<void()>& change) = 0;
  virtual void set_memory(MemoryTable memory) = 0;
  // Rings 0 .. `rings` - 1, then the memory: the end.
  virtual void stop_all(std::uint32_t rings, MemoryTable nothing) {
    for (std::uint32_t i = 0; i < rings; ++i) {
      stop_ring(i);
    }
    set_memory(std::move(nothing));
  }
  virtual void start_ring(std::uint32_t index, const VringSetup& setup) = 0;
  virtual VringBase stop_ring(std::uint32_t index) = 0;
  virtual void enable_ring(std::uint32_t index, bool enabled) = 0;
  virtual void set_call_fd(std::uint32_t index, int fd) = 0;
  virtual void set_kick_fd(std::uint32_t index, int fd) = 0;
};

class VhostSession {
 public:
  // The references outlive the session.
  VhostSession(std::uint32_t queue_pairs, VringControl& control, const LossSignal& loss,
               MemoryPolicy policy = {});
  // D7: no worker looks into the guest's memory any more; then it is unmapped.
  ~VhostSession();
  VhostSession(const VhostSession&) = delete;
  VhostSession& operator=(const VhostSession&) = delete;

  // Every answer of ours is a u64 or a vring state: both have 8 bytes.
  using Payload = std::array<std::byte, 8>;
  struct Outcome {
    VhostFault fault = VhostFault::kNone;
    std::string sentence;  // of a fault, for the log
    std::optional<Payload> reply;
    bool close = false;                    // the connection, after the reply
    std::optional<std::uint32_t> base_of;  // the reply says where this ring stands: see complete()
    bool waits = false;  // for unpopulated(): nothing else here is said yet, see finish_memory()
  };
  // Takes the descriptors it keeps out of `message`. What the message changes in the data half is collected,
  // so that the messages of one turn share a pause: apply() makes it happen.
  Outcome handle(VhostMessage& message);
  // Memory that the last message brought. It is used when finish_memory() says that it is populated; what
  // came of the message is said then, and no other is handled before.
  const MemoryTable& unpopulated() const { return pending_->table; }
  Outcome finish_memory(Result<void> populated);
  bool has_changes() const { return !changes_.empty(); }
  // Changes that hold what costs: memory that stays mapped until they are made.
  bool holds_memory() const { return !retired_memory_.empty(); }
  // All that was collected, in its order, inside one quiesce(). False: not now, nothing was done; ask again.
  bool apply(VringControl::Patience patience);
  // After apply(), before the reply goes out: what only the stopped ring knew.
  void complete(Outcome& outcome) const;
  // Stops everything and lets go of the memory. False: not now. The destructor does it whatever it takes.
  // What it needs is there from the beginning: it is also how a session ends for want of memory.
  bool end(VringControl::Patience patience);

  std::uint64_t features() const { return features_; }
  std::uint64_t protocol_features() const { return protocol_features_; }
  const GuestMemory& memory() const { return *memory_; }
  // At least one receive ring runs and is enabled.
  bool receives() const;
  struct RingInfo {
    std::uint16_t entries = 0;  // 0: never set up
    bool running = false, enabled = false;
  };
  RingInfo ring(std::uint32_t index) const;
  std::uint32_t ring_count() const { return static_cast<std::uint32_t>(rings_.size()); }

 private:
  struct Ring {
    std::uint16_t entries = 0;
    std::optional<vhost_user_vring_addr> place;
    VringBase base;
    bool has_kick = false;  // one was set, be it -1
    PeerFd kick, call;
    bool base_follows = false;    // from a stop that is collected; until then `base` is old
    std::optional<bool> enabled;  // as the front-end said; before that as the specification says
    bool running = false;
  };
  // What came of one message.
  struct Verdict {
    VhostFault fault = VhostFault::kNone;
    std::string sentence;
    std::uint64_t value = 0;  // of a reply of its own
    std::optional<std::uint32_t> base_of = {};
  };
  template <typename... Args>
  static Verdict no(VhostFault fault, fmt::format_string<Args...> format, Args&&... args) {
    return {.fault = fault, .sentence = fmt::format(format, std::forward<Args>(args)...)};
  }

  // session.cc
  Outcome conclude(const vhost_user_header& header, Verdict verdict) const;
  Verdict dispatch(VhostMessage& message);
  Verdict set_features(std::uint64_t bits);
  Verdict set_protocol_features(std::uint64_t bits);
  Verdict set_status(std::uint64_t status);
  Verdict take_memory(MadeTable made);
  Verdict set_mem_table(const VhostMessage& message);
  Verdict use_memory(MemoryTable table);
  void swap_memory(MemoryTable next);
  void reset_device();
  bool stop_for_good(VringControl::Patience patience);

  // session_rings.cc
  Verdict dispatch_ring(VhostMessage& message);
  Verdict set_entries(std::uint32_t index, std::uint32_t entries);
  Verdict set_place(const vhost_user_vring_addr& place);
  Verdict set_base(std::uint32_t index, std::uint32_t base);
  Verdict get_base(std::uint32_t index);
  Verdict set_kick(std::uint32_t index, PeerFd fd);
  Verdict set_call(std::uint32_t index, PeerFd fd);
  Verdict enable(std::uint32_t index, std::uint32_t on);
  void disable_all();
  void stop_all();
  // Inside quiesce(): stops it, and keeps where it stands unless the front-end has said otherwise since.
  VringBase stop_now(std::uint32_t index);
  void start_now(std::uint32_t index, VringSetup setup, bool enabled);
  void later(std::uint32_t ring, std::function<void()> change);
  void later_for_all(std::function<void()> change);
  bool any_running() const;
  bool complete(const Ring& ring) const;
  bool carries(const Ring& ring) const;
  // Where it lies in `memory`; an error when it does not.
  Result<VringSetup> setup_of(const Ring& ring, const GuestMemory& memory) const;
  // Starts those that are complete and do not run; says what is wrong with the first that cannot.
  Verdict start_complete(std::uint32_t first, std::uint32_t count);
  bool packed() const;

  VringControl& control_;
  const LossSignal& loss_;
  const MemoryPolicy policy_;
  const std::uint64_t offered_;
  const std::uint32_t queue_pairs_;
  std::uint64_t features_ = 0, protocol_features_ = 0;
  bool speaks_protocol_ = false;  // PROTOCOL_FEATURES was negotiated: rings begin disabled
  std::uint8_t status_ = 0;
  MemoryTable memory_;  // never null
  std::vector<Ring> rings_;
  struct Pending {
    MemoryTable table;
    vhost_user_header header;  // of the message that brought it
  };
  std::optional<Pending> pending_;

  // Collected for the next pause, and what workers may use until then.
  std::vector<std::function<void()>> changes_;
  VringSet changed_;
  std::vector<PeerFd> retired_fds_;
  std::vector<MemoryTable> retired_memory_;
  const MemoryTable nothing_ = std::make_shared<const GuestMemory>();
  bool ended_ = false, stopped_ = false;
};

}  // namespace sluice
