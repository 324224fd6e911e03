#include "port/guest/guest_port.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/log_budget.h"
#include "base/pause_budget.h"
#include "base/unix_socket.h"
#include "port/acceptor.h"
#include "port/guest/features.h"
#include "port/guest/guest_device.h"
#include "port/guest/guest_door.h"
#include "port/guest/populate.h"
#include "port/guest/session.h"

namespace sluice {

namespace {

// Waited at least when pauses have run out, so that a flood is taken in a few messages at a time.
constexpr std::uint64_t kShortestDeferNs = 10'000'000;
// Between two tries when a worker does not come.
constexpr std::uint64_t kLateRetryNs = 100'000'000;

Result<void> check_options(const GuestPortOptions& options) {
  if (options.workers.empty()) {
    return fail("port {}: no worker serves it", options.name);
  }
  if (options.macs.empty()) {
    return fail("port {}: no MAC address; at least one is needed", options.name);
  }
  if (options.queue_pairs < 1 || options.queue_pairs > kMaxQueuePairs) {
    return fail("port {}: {} queue pairs; 1 .. {} are possible", options.name, options.queue_pairs,
                kMaxQueuePairs);
  }
  return {};
}

}  // namespace

class GuestPort::Impl final : public VringControl {
 public:
  Impl(GuestPortOptions options, LossSignal loss, EventLoop& loop, GuestPortHost& host, Doors& doors);
  ~Impl() override;

  Result<void> start();
  Info info() const;
  void cut_off_stalled() {
    if (attached_ && !attached_->ending) {
      stalled_.add(1);
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
    return host_.quiesce(
        device_.workers_of(rings),
        patience == Patience::kForEver ? GuestPortHost::Patience::kForEver : GuestPortHost::Patience::kShort,
        change);
  }
  void set_memory(MemoryTable memory) override { device_.set_memory(std::move(memory)); }
  void start_ring(std::uint32_t index, const VringSetup& setup) override { device_.start_ring(index, setup); }
  VringBase stop_ring(std::uint32_t index) override { return device_.stop_ring(index); }
  void enable_ring(std::uint32_t index, bool enabled) override { device_.enable_ring(index, enabled); }
  void set_call_fd(std::uint32_t index, int fd) override { device_.set_call_fd(index, fd); }
  void set_kick_fd(std::uint32_t index, int fd) override { device_.set_kick_fd(index, fd); }

  void try_to_connect();
  void connect_later();
  void admit(PeerSocket socket, const Peer& peer);
  void wait_for_the_end(PeerSocket socket, const ucred& peer);
  void refuse(const ucred& peer);
  Result<void> attach(PeerSocket socket, const ucred& peer);
  void detach(std::string_view why);
  void finish_detach();

  void on_channel(std::uint32_t events);
  // False: the session is over.
  bool take_message(VhostMessage& message);
  bool conclude_message(std::uint32_t request, VhostSession::Outcome& outcome);
  bool populate(std::uint32_t request);
  void on_populated(std::uint32_t request, Result<void> populated);
  bool apply_changes();
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
  GuestPortHost& host_;
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
  bool shown_attached_ = false;  // as host_ knows it
  bool refusal_logged_ = false, unreachable_logged_ = false;
  LogBudget log_budget_;
  std::unique_ptr<Acceptor> acceptor_;
  EventLoop::TimerId connect_timer_ = 0, candidate_timer_ = 0;

  PauseBudget pause_budget_;
  bool stuck_ = false;  // a worker did not come for this port's changes
  Counter pauses_, pauses_deferred_, pauses_late_, stalled_, room_deferred_;
  Counter connects_, disconnects_, denied_, refused_, messages_, memory_lost_;
  std::array<Counter, static_cast<std::size_t>(VhostFault::kCount)> faults_;
};

// ---- beginning and end

GuestPort::Impl::Impl(GuestPortOptions options, LossSignal loss, EventLoop& loop, GuestPortHost& host,
                      Doors& doors)
    : options_(std::move(options)),
      loop_(loop),
      host_(host),
      doors_(doors),
      loss_(std::move(loss)),
      memory_policy_({.table_bytes = options_.memory_bytes,
                      .mapped_of_all = options_.all_memory,
                      .sealed = options_.sealed_memory,
                      .populate = options_.populate}),
      device_({.port = options_.id,
               .uplink = options_.uplink,
               .macs = options_.macs,
               .vlan = options_.vlan,
               .trust = options_.trust,
               .limits = options_.limits,
               .serving = options_.serving},
              options_.workers, options_.queue_pairs),
      populator_(loop) {
  for (WorkerId worker : options_.workers) {
    host_.install_lane(options_.id, worker, &device_.lane(worker));
  }
}

GuestPort::Impl::~Impl() {
  if (attached_) {
    detach("the port is removed");
  }
  if (attached_) {  // a worker does not come: here it is waited for (D7)
    loop_.cancel(std::exchange(attached_->resume_timer, 0));
    attached_.reset();
  }
  for (EventLoop::TimerId timer : {connect_timer_, candidate_timer_}) {
    if (timer != 0) {
      loop_.cancel(timer);
    }
  }
  if (acceptor_) {
    doors_.bury(acceptor_->release());  // with the connections that nobody has taken
  }
  loop_.remove(loss_.fd());
  for (WorkerId worker : options_.workers) {
    host_.remove_lane(options_.id, worker);
  }
}

Result<void> GuestPort::Impl::start() {
  SLUICE_TRY(loop_.add(loss_.fd(), EPOLLIN, [this](std::uint32_t) { on_loss(); }));
  if (options_.populate) {
    SLUICE_TRY(populator_.prepare());
  }
  if (options_.role == GuestPortOptions::Role::kClient) {
    SLUICE_TRY(check_policy(options_.policy));
    try_to_connect();
    return {};
  }
  auto acceptor = Acceptor::create(
      {.port = options_.name, .path = options_.socket, .type = SOCK_STREAM, .policy = options_.policy}, loop_,
      log_budget_,
      [this](UniqueFd socket, const Peer& peer) { admit(PeerSocket(std::move(socket), doors_), peer); });
  SLUICE_TRY(acceptor);
  acceptor_ = std::move(*acceptor);
  return {};
}

// ---- connections

void GuestPort::Impl::try_to_connect() {
  auto socket = connect_to_path(options_.socket, SOCK_STREAM);
  if (!socket) {
    if (!std::exchange(unreachable_logged_, true)) {
      log::info("port {}: waiting for a front-end: {}", options_.name, socket.error().message);
    }
    connect_later();
    return;
  }
  PeerSocket peer_socket(std::move(*socket), doors_);
  if (auto peer = judge_peer(peer_socket.get(), options_.policy, options_.name)) {
    admit(std::move(peer_socket), *peer);
  }
  if (!attached_) {
    connect_later();
  }
}

void GuestPort::Impl::connect_later() {
  connect_timer_ = loop_.once(options_.retry_ns, [this] {
    connect_timer_ = 0;
    try_to_connect();
  });
}

void GuestPort::Impl::admit(PeerSocket socket, const Peer& peer) {
  if (!peer.allowed()) {
    denied_.add(1);
    if (log_budget_.take()) {
      log::warn("port {}: refused pid {}: {}", options_.name, peer.who.pid, peer.refusal);
    }
    return;
  }
  if (attached_) {
    on_channel(EPOLLIN);  // what its door has said by now may be its end
  }
  if (attached_ && !attached_->ending && attached_->messages == 0) {
    detach("another front-end came, and this one has never said a whole message");
  }
  if (attached_) {
    wait_for_the_end(std::move(socket), peer.who);
    return;
  }
  if (auto done = attach(std::move(socket), peer.who); !done && log_budget_.take()) {
    log::error("port {}: {}", options_.name, done.error().message);
  }
}

// A front-end that was killed and started again may be here before its door has told of its end.
void GuestPort::Impl::wait_for_the_end(PeerSocket socket, const ucred& peer) {
  if (candidate_) {
    refuse(peer);
    return;
  }
  candidate_.emplace(std::move(socket), peer);
  candidate_timer_ = loop_.once(options_.gives_way_ns, [this] {
    candidate_timer_ = 0;
    refuse(candidate_->who);
    candidate_.reset();
  });
}

void GuestPort::Impl::refuse(const ucred& peer) {
  refused_.add(1);
  if (!std::exchange(refusal_logged_, true)) {
    log::warn("port {}: refused pid {}: pid {} is there", options_.name, peer.pid, attached_->who.pid);
  }
}

Result<void> GuestPort::Impl::attach(PeerSocket socket, const ucred& peer) {
  loss_.begin();
  auto door = doors_.open(DoorKind::kGuest, options_.name, socket.release());
  if (!door) {
    return std::unexpected(std::move(door.error()));
  }
  auto watched = loop_.add(door->channel.get(), EPOLLIN | EPOLLRDHUP,
                           [this](std::uint32_t events) { on_channel(events); });
  if (!watched) {
    doors_.end(std::move(*door));
    return watched;
  }
  attached_.emplace(std::move(*door), peer, options_, *this, loss_, memory_policy_);
  connects_.add(1);
  refusal_logged_ = false;
  unreachable_logged_ = false;
  if (log_budget_.take()) {
    log::info("port {}: front-end connected, pid {}, user {}", options_.name, peer.pid, peer.uid);
  }
  return {};
}

void GuestPort::Impl::detach(std::string_view why) {
  SLUICE_CHECK(attached_);
  if (attached_->ending) {
    return;
  }
  if (std::exchange(shown_attached_, false)) {
    host_.set_attached(options_.id, false);
  }
  if (attached_->resume_timer != 0) {
    loop_.cancel(std::exchange(attached_->resume_timer, 0));
  }
  if (std::exchange(attached_->populating, false)) {
    populator_.cancel();
  }
  loop_.remove(attached_->channel.fd());
  if (log_budget_.take()) {
    log::info("port {}: front-end gone, pid {}: {}", options_.name, attached_->who.pid, why);
  }
  doors_.end(std::move(attached_->door));
  attached_->ending = true;
  finish_detach();
}

// D7: rings stop between two bursts, then the memory goes. While a worker does not come, the session stays,
// and the port takes no other.
void GuestPort::Impl::finish_detach() {
  attached_->resume_timer = 0;
  if (!attached_->session.end(Patience::kShort)) {
    note_late();
    attached_->resume_timer = loop_.once(kLateRetryNs, [this] { finish_detach(); });
    return;
  }
  pauses_.add(1);
  stuck_ = false;
  attached_.reset();
  disconnects_.add(1);
  if (candidate_) {
    Candidate next = std::move(*candidate_);
    candidate_.reset();
    loop_.cancel(std::exchange(candidate_timer_, 0));
    if (auto done = attach(std::move(next.socket), next.who); !done && log_budget_.take()) {
      log::error("port {}: {}", options_.name, done.error().message);
    }
  }
  if (options_.role == GuestPortOptions::Role::kClient && connect_timer_ == 0) {
    connect_later();
  }
}

// ---- messages

void GuestPort::Impl::on_channel(std::uint32_t events) {
  if (attached_->resume_timer != 0 || attached_->populating) {  // not read at present
    if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
      detach("it closed the connection");
    }
    return;
  }
  if (attached_->channel.has_unsent() && !attached_->channel.flush()) {
    detach("its socket is broken");
    return;
  }
  VhostMessage message;
  for (std::uint32_t i = 0; i < kMessagesPerTurn; ++i) {
    if (const std::uint64_t wait_ns = pause_budget_.ns_until_ready(now_ns()); wait_ns != 0) {
      pauses_deferred_.add(1);
      defer(std::max(wait_ns, kShortestDeferNs));
      return;
    }
    if (must_wait_for_room()) {
      room_deferred_.add(1);
      defer(kShortestDeferNs);
      return;
    }
    switch (attached_->channel.receive(message)) {
      case GuestChannel::Received::kMessage:
        if (!take_message(message)) {
          return;
        }
        break;
      case GuestChannel::Received::kNotYet:
        end_turn();
        return;
      case GuestChannel::Received::kClosed:
        detach("it closed the connection");
        return;
      case GuestChannel::Received::kFault:
        cut_off(attached_->channel.fault());
        return;
    }
  }
  end_turn();  // the rest in the next turn: the loop is level-triggered
}

// Tables come faster than the closer takes the old ones apart: with this, a port has at most three times its
// memory mapped, the present table, the one that replaces it, and one on its way out.
bool GuestPort::Impl::must_wait_for_room() const {
  return memory_policy_.mapped->used() / 2 > options_.memory_bytes;
}

// What the turn's messages have changed, in one pause.
void GuestPort::Impl::end_turn() {
  if (!apply_changes()) {
    defer(kLateRetryNs);
    return;
  }
  watch_for_writing();
}

bool GuestPort::Impl::apply_changes() {
  if (attached_->session.has_changes()) {
    pause_budget_.take(now_ns());
    if (!attached_->session.apply(Patience::kShort)) {
      note_late();
      return false;
    }
    pauses_.add(1);
    stuck_ = false;
  }
  (void)attached_->session.apply(Patience::kShort);  // lets go of what no worker had
  show_attached();
  return true;
}

void GuestPort::Impl::note_late() {
  pauses_late_.add(1);
  if (!std::exchange(stuck_, true) && log_budget_.take()) {
    log::warn("port {}: a worker does not come to take changes of its rings; they wait", options_.name);
  }
}

// Its socket is not read for a while: pauses have run out, or a worker does not come.
void GuestPort::Impl::defer(std::uint64_t delay_ns) {
  (void)loop_.modify(attached_->channel.fd(), EPOLLRDHUP);
  attached_->waits_to_write = false;
  attached_->resume_timer = loop_.once(delay_ns, [this] { resume(); });
}

void GuestPort::Impl::resume() {
  attached_->resume_timer = 0;
  if (!apply_changes()) {
    defer(kLateRetryNs);
    return;
  }
  if (attached_->held) {
    Attached::Answer held = std::move(*attached_->held);
    attached_->held.reset();
    if (!finish_message(held.request, held.outcome)) {
      return;
    }
  }
  (void)loop_.modify(attached_->channel.fd(), EPOLLIN | EPOLLRDHUP);
  watch_for_writing();
}

bool GuestPort::Impl::take_message(VhostMessage& message) {
  messages_.add(1);
  ++attached_->messages;
  const std::uint32_t request = message.header.request;
  VhostSession::Outcome outcome = attached_->session.handle(message);
  message.fds.clear();  // those that nobody wanted
  return outcome.waits ? populate(request) : conclude_message(request, outcome);
}

// The session goes on when the thread has done it; nothing else is heard from the front-end meanwhile but its
// end.
bool GuestPort::Impl::populate(std::uint32_t request) {
  (void)apply_changes();  // what was said before, or when a worker comes
  populator_.start(attached_->session.unpopulated(),
                   [this, request](Result<void> populated) { on_populated(request, std::move(populated)); });
  (void)loop_.modify(attached_->channel.fd(), EPOLLRDHUP);
  attached_->waits_to_write = false;
  attached_->populating = true;
  return false;
}

void GuestPort::Impl::on_populated(std::uint32_t request, Result<void> populated) {
  attached_->populating = false;
  VhostSession::Outcome outcome = attached_->session.finish_memory(std::move(populated));
  if (conclude_message(request, outcome)) {
    (void)loop_.modify(attached_->channel.fd(), EPOLLIN | EPOLLRDHUP);
    end_turn();
  }
}

bool GuestPort::Impl::conclude_message(std::uint32_t request, VhostSession::Outcome& outcome) {
  if (outcome.fault != VhostFault::kNone) {
    count_fault(outcome.fault, outcome.sentence);
  }
  if (!outcome.reply && !outcome.close && !attached_->session.holds_memory()) {
    return true;
  }
  // What was said before has happened when the answer goes out.
  if (!apply_changes()) {
    attached_->held.emplace(Attached::Answer{request, std::move(outcome)});
    defer(kLateRetryNs);
    return false;
  }
  return finish_message(request, outcome);
}

bool GuestPort::Impl::finish_message(std::uint32_t request, VhostSession::Outcome& outcome) {
  attached_->session.complete(outcome);
  if (outcome.reply && !answer(request, *outcome.reply)) {
    return false;
  }
  if (outcome.close) {
    detach(outcome.sentence);
    return false;
  }
  return true;
}

bool GuestPort::Impl::answer(std::uint32_t request, const VhostSession::Payload& payload) {
  if (attached_->channel.reply(request, payload)) {
    return true;
  }
  cut_off(VhostFault::kUnread);
  return false;
}

void GuestPort::Impl::count_fault(VhostFault fault, std::string_view sentence) {
  faults_[static_cast<std::size_t>(fault)].add(1);
  if (!std::exchange(attached_->fault_logged, true) && log_budget_.take()) {
    log::warn("port {}: pid {}: {}", options_.name, attached_->who.pid, sentence);
  }
}

void GuestPort::Impl::cut_off(VhostFault fault) {
  const std::string_view why = fault == VhostFault::kUnread    ? "it does not read our answers"
                               : fault == VhostFault::kStalled ? "the rest of a message did not come"
                                                               : "what it sends is no message";
  count_fault(fault, why);
  detach(why);
}

void GuestPort::Impl::watch_for_writing() {
  Attached& peer = *attached_;
  if (peer.channel.has_unsent() != peer.waits_to_write) {
    peer.waits_to_write = peer.channel.has_unsent();
    const std::uint32_t events = EPOLLIN | EPOLLRDHUP | (peer.waits_to_write ? EPOLLOUT : 0u);
    (void)loop_.modify(peer.channel.fd(), events);
  }
}

void GuestPort::Impl::show_attached() {
  const bool receives = attached_->session.receives();
  if (receives != shown_attached_) {
    shown_attached_ = receives;
    host_.set_attached(options_.id, receives);
    if (log_budget_.take()) {
      log::info("port {}: the guest {}", options_.name, receives ? "receives" : "has stopped its queues");
    }
  }
}

void GuestPort::Impl::on_loss() {
  if (loss_.take() && attached_ && !attached_->ending) {
    memory_lost_.add(1);
    if (log_budget_.take()) {
      log::warn("port {}: pid {} has taken memory away that its guest uses", options_.name,
                attached_->who.pid);
    }
    detach("its memory is lost");
  }
}

// ---- what is shown

GuestPort::Info GuestPort::Impl::info() const {
  Info info;
  info.mapped_bytes = memory_policy_.mapped->used();
  if (!attached_) {
    return info;
  }
  const VhostSession& session = attached_->session;
  info.connected = !attached_->ending;
  info.stuck = stuck_;
  info.pid = attached_->who.pid;
  info.uid = attached_->who.uid;
  info.since_ns = attached_->since_ns;
  info.features = session.features();
  info.protocol_features = session.protocol_features();
  info.feature_names = feature_names(info.features);
  info.protocol_feature_names = protocol_feature_names(info.protocol_features);
  const Populator::Progress progress = populator_.progress();
  info.populating = progress.running;
  info.populated_bytes = progress.bytes;
  info.memory_bytes = bytes_of(session.memory());
  for (const GuestRegion& region : session.memory().regions()) {
    info.populated_bytes += region.mapping->populated ? region.mapping->bytes() : 0;
    info.regions.push_back(
        {.guest_address = region.guest_address, .bytes = region.bytes, .huge_pages = has_huge_pages(region)});
  }
  for (std::uint32_t i = 0; i < session.ring_count(); ++i) {
    const VhostSession::RingInfo ring = session.ring(i);
    if (ring.entries == 0) {
      continue;
    }
    const GuestDevice::RingState state = device_.ring_state(i);
    info.rings.push_back({.index = i,
                          .enabled = ring.enabled,
                          .running = ring.running && !state.broken,
                          .broken = state.broken,
                          .packed = (info.features & kFeatureRingPacked) != 0,
                          .entries = ring.entries,
                          .worker = state.worker,
                          .kicks = state.kicks,
                          .calls = state.calls,
                          .calls_suppressed = state.calls_suppressed,
                          .packets = state.packets});
    info.running = info.running || (ring.running && ring.enabled && !state.broken);
  }
  return info;
}

void GuestPort::Impl::visit(CounterVisitor& visitor) const {
  device_.visit(visitor);
  visitor.counter("connects", connects_.value());
  visitor.counter("disconnects", disconnects_.value());
  visitor.counter("fault_stalled", stalled_.value());
  visitor.counter("pauses", pauses_.value());
  visitor.counter("pauses_deferred", pauses_deferred_.value());
  visitor.counter("memory_deferred", room_deferred_.value());
  visitor.counter("pauses_late", pauses_late_.value());
  visitor.counter("denied", denied_.value());
  visitor.counter("refused", refused_.value());
  visitor.counter("messages", messages_.value());
  visitor.counter("fault_memory_lost", memory_lost_.value());
  for (std::size_t i = 1; i < faults_.size(); ++i) {
    visitor.counter(counter_name(static_cast<VhostFault>(i)), faults_[i].value());
  }
}

GuestPort::GuestPort(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GuestPort::~GuestPort() = default;

Result<std::unique_ptr<GuestPort>> GuestPort::create(GuestPortOptions options, EventLoop& loop,
                                                     GuestPortHost& host, Doors& doors) {
  SLUICE_TRY(check_options(options));
  auto loss = LossSignal::create();
  if (!loss) {
    return std::unexpected(std::move(loss.error()));
  }
  auto impl = std::make_unique<Impl>(std::move(options), std::move(*loss), loop, host, doors);
  SLUICE_TRY(impl->start());
  return std::unique_ptr<GuestPort>(new GuestPort(std::move(impl)));
}

GuestPort::Info GuestPort::info() const {
  return impl_->info();
}
const GuestPortOptions& GuestPort::options() const {
  return impl_->options();
}
void GuestPort::cut_off_stalled() {
  impl_->cut_off_stalled();
}
void GuestPort::visit(CounterVisitor& visitor) const {
  impl_->visit(visitor);
}

}  // namespace sluice
