// The inside of GuestPort (guest_port.h): connections in guest_port.cc, messages in guest_port_messages.cc.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/log_budget.h"
#include "base/token_bucket.h"
#include "port/acceptor.h"
#include "port/guest/guest_port.h"
#include "port/guest/vhost_user/guest_door.h"
#include "port/guest/vhost_user/populate.h"
#include "port/guest/vhost_user/session.h"
#include "port/guest/virtio/guest_device.h"

namespace sluice {

// Waited at least when pauses have run out, so that a flood is taken in a few messages at a time.
inline constexpr std::uint64_t kShortestDeferNs = 10'000'000;
// Between two tries when a worker does not come.
inline constexpr std::uint64_t kLateRetryNs = 100'000'000;

class GuestPort::Impl final : public VringControl {
 public:
  Impl(GuestPortOptions options, LossSignal loss, EventLoop& loop, const PortServices& services,
       Doors& doors);
  ~Impl() override;

  Result<void> start();
  VhostInfo vhost() const;
  PortInfo info() const;
  const CallPrice& call_price() const { return device_.call_price(); }
  void cut_off_stalled(std::uint64_t nobody_for_ns) {
    if (attached_ && !attached_->ending) {
      stalled_.add(1);
      shut_until_ns_ = now_ns() + nobody_for_ns;
      if (acceptor_) {
        acceptor_->hold(nobody_for_ns);
      }
      detach("cut off, its guest held workers up");
    }
  }
  void visit(CounterVisitor& visitor) const;
  const GuestPortOptions& options() const { return options_; }

 private:
  // A front-end that is there.
  struct Attached {
    Attached(Door its_door, const ucred& peer, const GuestPortOptions& options, VringControl& control,
             const LossSignal& loss, const MemoryPolicy& memory)
        : door(std::move(its_door)),
          channel(door.channel.get(), {.message_timeout_ns = options.message_timeout_ns}),
          session(options.queue_pairs, control, loss, memory),
          who(peer),
          since_ns(now_ns()) {}
    Door door;
    GuestChannel channel;
    VhostSession session;
    ucred who;
    std::uint64_t since_ns;
    std::uint64_t messages = 0;
    std::uint32_t of_turn = 0;  // of these
    bool heard = false;         // anything, since it was asked whether it is there
    CheckId check = 0;          // is under way: nothing is heard from it meanwhile
    bool fault_logged = false;
    bool waits_to_write = false;
    // A reply that waits for a pause.
    struct Answer {
      std::uint32_t request;
      VhostSession::Outcome outcome;
    };
    std::optional<Answer> held;
    EventLoop::TimerId resume_timer = 0;  // runs while the socket is not read
    bool populating = false;              // not read either, until memory is populated
    bool ending = false;                  // gone, but a worker may still look into its memory (D7)
  };

  // VringControl: the data half, between two bursts.
  bool quiesce(const VringSet& rings, Patience patience, const std::function<void()>& change) override {
    return services_.lanes.pause(
        device_.workers_of(rings),
        patience == Patience::kForEver ? LaneTable::Patience::kForEver : LaneTable::Patience::kShort, change);
  }
  void set_memory(MemoryTable memory) override { device_.set_memory(std::move(memory)); }
  void stop_all(std::uint32_t, MemoryTable nothing) override { device_.stop_all(std::move(nothing)); }
  void start_ring(std::uint32_t index, const VringSetup& setup) override { device_.start_ring(index, setup); }
  VringBase stop_ring(std::uint32_t index) override { return device_.stop_ring(index); }
  void enable_ring(std::uint32_t index, bool enabled) override { device_.enable_ring(index, enabled); }
  void set_call_fd(std::uint32_t index, int fd) override { device_.set_call_fd(index, fd); }
  void set_kick_fd(std::uint32_t index, int fd) override { device_.set_kick_fd(index, fd); }

  void try_to_connect();
  void connect_later();
  void admit(PeerSocket socket, const Peer& peer);
  void wait_for_the_end(PeerSocket socket, const ucred& peer);
  void refuse_unless_held_up();
  bool is_silent();
  void refuse(const ucred& peer);
  Result<void> attach(PeerSocket socket, const ucred& peer);
  void detach(std::string_view why);
  void finish_detach();
  void finish_detach_later();
  void run_out_of_memory();

  void on_channel(std::uint32_t events);
  void take_messages();
  void have_checked();
  void on_checked(Checked checked);
  // False: the session is over.
  bool take_message(VhostMessage& message);
  bool conclude_message(std::uint32_t request, VhostSession::Outcome& outcome);
  bool populate(std::uint32_t request);
  void on_populated(std::uint32_t request, Result<void> populated);
  bool apply_changes();
  void drop_calls();
  bool must_wait_for_room() const;
  bool finish_message(std::uint32_t request, VhostSession::Outcome& outcome);
  void end_turn();
  void note_late();
  void defer(std::uint64_t delay_ns);
  void resume();
  bool answer(std::uint32_t request, const VhostSession::Payload& payload);
  void count_fault(VhostFault fault, std::string_view sentence);
  void cut_off(VhostFault fault);
  void watch_for_writing();
  void show_attached();
  void on_loss();

  const GuestPortOptions options_;
  EventLoop& loop_;
  PortServices services_;
  Doors& doors_;
  const LossSignal loss_;
  const MemoryPolicy memory_policy_;
  GuestDevice device_;
  Populator populator_;

  std::optional<Attached> attached_;  // behind device_ and loss_: it uses both
  // Has come while another is attached, whose end may not have been heard yet.
  struct Candidate {
    PeerSocket socket;
    ucred who;
  };
  std::optional<Candidate> candidate_;
  bool shown_attached_ = false;  // as the NICs' programs know it
  bool refusal_logged_ = false, unreachable_logged_ = false;
  LogBudget log_budget_;
  std::unique_ptr<Acceptor> acceptor_;
  EventLoop::TimerId connect_timer_ = 0, candidate_timer_ = 0;
  std::uint64_t shut_until_ns_ = 0;  // nobody is let in before that

  TokenBucket front_end_budget_{options_.front_end_interval_ns, kFrontEndBurst};
  TokenBucket pause_budget_{1'000'000'000 / kPausesPerSecond, kPauseBurst};
  bool stuck_ = false;  // a worker did not come for this port's changes
  Counter pauses_, pauses_deferred_, pauses_late_, stalled_, room_deferred_;
  Counter connects_, connects_held_, disconnects_, denied_, refused_, messages_, memory_lost_;
  std::array<Counter, static_cast<std::size_t>(VhostFault::kCount)> faults_;
};

}  // namespace sluice
