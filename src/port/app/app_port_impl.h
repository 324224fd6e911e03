// AppPort's inside. app_hello.cc: who connects, until it may come in. app_port.cc: its session.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/log_budget.h"
#include "base/token_bucket.h"
#include "door/doors.h"
#include "port/acceptor.h"
#include "port/app/app_lane.h"
#include "port/app/app_port.h"
#include "port/app/handshake.h"
#include "port/app/kept_memory.h"
#include "port/app/off_loop.h"
#include "port/app/session_memory.h"
#include "port/waker.h"

namespace sluice {

class AppPort::Impl final : public PressureSink {
 public:
  Impl(AppPortOptions options, SessionGeometry geometry, EventLoop& loop, const PortServices& services)
      : options_(std::move(options)),
        geometry_(std::move(geometry)),
        loop_(loop),
        services_(services),
        attach_budget_(options_.attach_interval_ns, kAttachBurst),
        off_loop_(loop),
        counters_(geometry_.lane_count) {}
  ~Impl() override;

  Result<void> start();
  void visit(CounterVisitor& visitor) const;
  void visit_pools(const std::function<void(const PagePool&)>& visit) const;
  std::optional<Session> session() const;
  PortInfo info() const;
  const AppPortOptions& options() const { return options_; }
  const WakePrice& wake_price() const { return *wake_price_; }

 private:
  // Has connected, has not said hello.
  struct Pending {
    PeerSocket socket;
    Peer peer;
    EventLoop::TimerId timeout = 0;
    std::optional<Door> door;  // reads its hello now
  };
  using PendingIt = std::list<Pending>::iterator;
  // Has said hello and may come in; its session cannot begin yet.
  struct Waiting {
    PeerSocket socket;
    ucred who{};
    std::string client;
    bool paid = false;             // the attach budget has let it through
    std::uint64_t until_ns = 0;    // how long at most for queues that are opening
    EventLoop::TimerId timer = 0;  // when to look again
  };
  struct Attached {
    PeerSocket socket;
    Session who;
    std::optional<Door> door;  // reads whether it has mapped its memory, now
    std::uint64_t serial = 0;
    EventLoop::TimerId mapping_timer = 0;         // until it says that it has mapped its memory
    bool sealing = false;                         // it has said so
    std::vector<std::unique_ptr<AppLane>> lanes;  // none before it is sealed: no worker reads what it writes
  };
  // What the stall timeout remembers of a lane.
  struct StallWatch {
    std::uint64_t returned = 0;
    std::uint64_t full_since_ns = 0;  // 0: it is not
  };

  void pressure(WorkerId worker, bool on) override { services_.states.set_pressure(options_.id, worker, on); }

  void admit(PeerSocket socket, Peer peer);
  void wait_for_hello(PeerSocket socket, Peer peer);
  Result<void> watch_pending(PendingIt pending);
  void on_mapped_door();
  void take_mapped(MappedRead read);
  void on_hello(PendingIt pending);
  void on_door(PendingIt pending);
  Result<void> open_door(const PeerSocket& socket, std::optional<Door>& door, EventLoop::Callback on_said);
  void end_door(std::optional<Door>& door);
  void take_hello(PendingIt pending, HelloRead read, const Hello& hello);
  PeerSocket take_pending(PendingIt pending);
  void answer(PeerSocket socket, const Peer& peer, const Hello& hello);
  void refuse(int socket, sluice_app_status status, const ucred& peer, const std::string& sentence);

  void let_wait(PeerSocket socket, const ucred& peer, const std::string& client);
  void advance();
  void look_again(std::uint64_t delay_ns);
  Waiting take_waiting();
  void give_up(const Waiting& waiting, const Error& why);
  Result<void> attach(PeerSocket socket, const ucred& peer, const std::string& client);
  Result<void> welcome();
  void on_session();
  void seal();
  Result<void> serve();
  void detach(std::string_view why);
  bool served() const { return attached_ && !attached_->lanes.empty(); }
  void check_stall();

 public:
  void cut_off_stalled(std::uint64_t nobody_for_ns) {
    if (served()) {
      cut_off_.add(1);
      shut_until_ns_ = now_ns() + nobody_for_ns;
      detach("cut off, it held workers up");
    }
  }

 private:
  Result<void> use_memory(Result<std::unique_ptr<SessionMemory>> made);
  void make_memory();
  void on_made(Result<std::unique_ptr<SessionMemory>> made);
  void when_idle();
  void drop_memory();
  Result<void> has_room() const;
  static void let_go(std::shared_ptr<SessionMemory> memory);
  void reopen_later(const Error& error);
  LanePolicy policy(std::size_t lane) const;

  const AppPortOptions options_;
  const SessionGeometry geometry_;
  EventLoop& loop_;
  PortServices services_;

  const std::shared_ptr<WakePrice> wake_price_ = std::make_shared<WakePrice>();
  LogBudget log_budget_;
  std::unique_ptr<Acceptor> acceptor_;
  std::list<Pending> pending_;  // oldest first
  std::unique_ptr<SessionMemory> memory_;
  KeptMemory kept_;
  TokenBucket attach_budget_;
  std::optional<Waiting> waiting_;    // only while nobody is attached
  std::optional<Attached> attached_;  // behind memory_: lanes go first
  std::vector<StallWatch> stall_;
  EventLoop::TimerId stall_timer_ = 0, reopen_timer_ = 0;
  std::uint64_t last_serial_ = 0;
  std::uint64_t shut_until_ns_ = 0;  // who comes before that waits
  bool ending_ = false;
  OffLoop off_loop_;  // makes memory, seals it

  std::vector<AppLaneCounters> counters_;  // per lane, over all sessions
  Counter attaches_, attaches_held_, detaches_, denied_, refused_, cut_off_, hello_timeouts_;
};

}  // namespace sluice
