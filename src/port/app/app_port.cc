#include "port/app/app_port.h"

#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <list>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/descriptors.h"
#include "base/log.h"
#include "base/log_budget.h"
#include "door/one_message.h"
#include "port/acceptor.h"
#include "port/app/app_lane.h"
#include "port/app/handshake.h"
#include "port/app/kept_memory.h"
#include "port/app/session_memory.h"

namespace sluice {

namespace {
constexpr std::uint64_t kReopenNs = 1'000'000'000;   // between tries to serve owned queues again
constexpr std::uint64_t kWelcomeLookNs = 1'000'000;  // at queues that an app waits for
constexpr std::uint64_t kStallChecksPerTimeout = 4;
constexpr std::uint64_t kMinStallCheckNs = 1'000'000;
}  // namespace

class AppPort::Impl final : public PressureSink {
 public:
  Impl(AppPortOptions options, SessionGeometry geometry, EventLoop& loop, AppPortHost& host)
      : options_(std::move(options)),
        geometry_(std::move(geometry)),
        loop_(loop),
        host_(host),
        counters_(geometry_.lane_count) {}
  ~Impl() override;

  Result<void> start();
  void visit(CounterVisitor& visitor) const;
  void visit_pools(const std::function<void(const PagePool&)>& visit) const;
  std::optional<Session> session() const;
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
  // Has said hello and may come in; its queues are opening.
  struct Waiting {
    PeerSocket socket;
    Peer peer;
    Hello hello;
    std::uint64_t until_ns = 0;
    EventLoop::TimerId timer = 0;
  };
  struct Attached {
    PeerSocket socket;
    Session who;
    std::optional<Door> door;                     // reads whether it has mapped its memory, now
    EventLoop::TimerId mapping_timer = 0;         // until it says that it has mapped its memory
    std::vector<std::unique_ptr<AppLane>> lanes;  // none before: nothing of what the app writes is read
  };
  // What the stall timeout remembers of a lane.
  struct StallWatch {
    std::uint64_t returned = 0;
    std::uint64_t full_since_ns = 0;  // 0: it is not
  };

  void pressure(WorkerId worker, bool on) override { host_.set_pressure(options_.id, worker, on); }

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
  void let_in(PeerSocket socket, const Peer& peer, const Hello& hello);
  void wait_for_queues(PeerSocket socket, const Peer& peer, const Hello& hello);
  void look_at_waiting();
  void drop_waiting();
  void refuse(int socket, sluice_app_status status, const ucred& peer, const std::string& sentence);

  Result<void> attach(PeerSocket socket, const ucred& peer, const std::string& client);
  Result<void> welcome();
  void on_session();
  Result<void> serve();
  void detach(std::string_view why);
  bool served() const { return attached_ && !attached_->lanes.empty(); }
  static bool has_ended(int socket);
  void check_stall();

 public:
  void cut_off_stalled() {
    if (served()) {
      cut_off_.add(1);
      detach("cut off, it held workers up");
    }
  }

 private:
  Result<void> make_memory();
  void drop_memory();
  void reopen_later(const Error& error);
  LanePolicy policy(std::size_t lane) const;

  const AppPortOptions options_;
  const SessionGeometry geometry_;
  EventLoop& loop_;
  AppPortHost& host_;

  const std::shared_ptr<WakePrice> wake_price_ = std::make_shared<WakePrice>();
  LogBudget log_budget_;
  std::unique_ptr<Acceptor> acceptor_;
  std::list<Pending> pending_;  // oldest first
  std::unique_ptr<SessionMemory> memory_;
  KeptMemory kept_;
  std::optional<Waiting> waiting_;    // only while nobody is attached
  std::optional<Attached> attached_;  // behind memory_: lanes go first
  bool ending_ = false;
  std::vector<StallWatch> stall_;
  EventLoop::TimerId stall_timer_ = 0, reopen_timer_ = 0;

  std::vector<AppLaneCounters> counters_;  // per lane, over all sessions
  Counter attaches_, detaches_, denied_, refused_, cut_off_, hello_timeouts_;
};

// ---- beginning and end

Result<void> AppPort::Impl::start() {
  if (!options_.owned.empty()) {
    SLUICE_TRY(make_memory());
  }
  if (options_.stall_timeout_ns != 0) {
    std::uint64_t period = std::max(options_.stall_timeout_ns / kStallChecksPerTimeout, kMinStallCheckNs);
    stall_timer_ = loop_.every(period, [this] { check_stall(); });
  }
  auto acceptor = Acceptor::create({.port = options_.name,
                                    .path = options_.socket,
                                    .type = SOCK_SEQPACKET,
                                    .policy = options_.policy,
                                    .refuses_descriptors = options_.doors == nullptr},
                                   loop_, log_budget_, [this](UniqueFd socket, Peer peer) {
                                     admit(PeerSocket(std::move(socket), options_.doors), std::move(peer));
                                   });
  SLUICE_TRY(acceptor);
  acceptor_ = std::move(*acceptor);
  return {};
}

AppPort::Impl::~Impl() {
  for (EventLoop::TimerId timer : {stall_timer_, reopen_timer_}) {
    if (timer != 0) {
      loop_.cancel(timer);
    }
  }
  while (!pending_.empty()) {
    take_pending(pending_.begin());
  }
  drop_waiting();
  ending_ = true;
  if (attached_) {
    detach("the port is removed");
  }
  if (acceptor_ && options_.doors != nullptr) {
    options_.doors->bury(acceptor_->release());  // with the connections that nobody has taken
  }
  drop_memory();
}

// ---- connections

void AppPort::Impl::admit(PeerSocket socket, Peer peer) {
  if (options_.doors != nullptr) {
    wait_for_hello(std::move(socket), std::move(peer));
    return;
  }
  Hello hello;
  switch (read_hello(socket.get(), hello)) {
    case HelloRead::kNotYet:
      wait_for_hello(std::move(socket), std::move(peer));
      return;
    case HelloRead::kClosed:
      return;
    case HelloRead::kJudged:
      answer(std::move(socket), peer, hello);
      return;
  }
}

// Who it is, is known before it says a word. Strangers wait too, for a socket that is closed with a hello
// unread in it takes our answer with it; but they never take the place of one who may come in.
void AppPort::Impl::wait_for_hello(PeerSocket socket, Peer peer) {
  if (pending_.size() == kMaxPendingHellos) {
    auto victim =
        std::find_if(pending_.begin(), pending_.end(), [](const Pending& p) { return !p.peer.allowed(); });
    if (victim == pending_.end()) {
      if (!peer.allowed()) {
        answer(std::move(socket), peer, {});
        return;
      }
      victim = pending_.begin();
    }
    refused_.add(1);
    take_pending(victim);
  }
  PendingIt pending = pending_.emplace(pending_.end(), std::move(socket), std::move(peer));
  if (!watch_pending(pending)) {
    pending_.erase(pending);
    return;
  }
  pending->timeout = loop_.once(options_.hello_timeout_ns, [this, pending] {
    hello_timeouts_.add(1);
    PeerSocket late = take_pending(pending);
    send_refusal(late.get(), SLUICE_APP_BAD_HELLO, "no hello came in time");
  });
}

Result<void> AppPort::Impl::watch_pending(PendingIt pending) {
  return loop_.add(
      pending->socket.get(), EPOLLIN | EPOLLRDHUP, [this, pending](std::uint32_t) { on_hello(pending); },
      [this, pending] { take_pending(pending); });
}

PeerSocket AppPort::Impl::take_pending(PendingIt pending) {
  end_door(pending->door);
  loop_.remove(pending->socket.get());
  loop_.cancel(pending->timeout);
  PeerSocket socket = std::move(pending->socket);
  pending_.erase(pending);
  return socket;
}

void AppPort::Impl::on_hello(PendingIt pending) {
  if (options_.doors != nullptr) {
    auto asked =
        open_door(pending->socket, pending->door, [this, pending](std::uint32_t) { on_door(pending); });
    if (!asked) {
      refused_.add(1);
      if (log_budget_.take()) {
        log::error("port {}: {}", options_.name, asked.error().message);
      }
      take_pending(pending);
    }
    return;
  }
  Hello hello;
  const HelloRead read = read_hello(pending->socket.get(), hello);
  take_hello(pending, read, hello);
}

// There is something to read, so a process that reads it need not wait: who says nothing costs none.
Result<void> AppPort::Impl::open_door(const PeerSocket& socket, std::optional<Door>& door,
                                      EventLoop::Callback on_said) {
  auto theirs = socket.duplicate();
  SLUICE_TRY(theirs);
  auto opened = options_.doors->open(DoorKind::kOneMessage, options_.name, std::move(*theirs));
  SLUICE_TRY(opened);
  loop_.remove(socket.get());
  door = std::move(*opened);
  return loop_.add(door->channel.get(), EPOLLIN | EPOLLRDHUP, std::move(on_said));
}

void AppPort::Impl::on_door(PendingIt pending) {
  OneMessage message;
  if (!hear_message_door(pending->door->channel.get(), message)) {
    return;
  }
  end_door(pending->door);
  Hello hello;
  switch (message.report.what) {
    case MessageReport::What::kRead:
      take_hello(pending, judge_read(message.bytes, message.report.had_descriptors != 0, hello), hello);
      return;
    case MessageReport::What::kNotYet:
      if (watch_pending(pending)) {
        return;
      }
      break;
    case MessageReport::What::kClosed:
      break;
  }
  take_pending(pending);
}

void AppPort::Impl::end_door(std::optional<Door>& door) {
  if (door) {
    loop_.remove(door->channel.get());
    options_.doors->end(std::move(*door));
    door.reset();
  }
}

void AppPort::Impl::take_hello(PendingIt pending, HelloRead read, const Hello& hello) {
  switch (read) {
    case HelloRead::kNotYet:
      return;
    case HelloRead::kClosed:
      take_pending(pending);
      return;
    case HelloRead::kJudged: {
      Peer peer = std::move(pending->peer);
      answer(take_pending(pending), peer, hello);
      return;
    }
  }
}

void AppPort::Impl::answer(PeerSocket socket, const Peer& peer, const Hello& hello) {
  const ucred& who = peer.who;
  if (!peer.allowed()) {
    denied_.add(1);
    refuse(socket.get(), SLUICE_APP_DENIED, who, peer.refusal);
    return;
  }
  if (hello.status != SLUICE_APP_OK) {
    refused_.add(1);
    refuse(socket.get(), hello.status, who, hello.sentence);
    return;
  }
  // A client that was killed and started again may be here before the loop has seen the end of the old one.
  if (attached_ && has_ended(attached_->socket.get())) {
    detach("the app closed");
  }
  if (waiting_ && has_ended(waiting_->socket.get())) {
    drop_waiting();
  }
  if (attached_ || waiting_) {
    refused_.add(1);
    refuse(socket.get(), SLUICE_APP_BUSY, who,
           fmt::format("port {} is in use by pid {}", options_.name,
                       attached_ ? attached_->who.pid : waiting_->peer.who.pid));
    return;
  }
  if (const std::size_t kept = kept_.count(); kept >= kMaxKeptSessions) {
    refused_.add(1);
    refuse(socket.get(), SLUICE_APP_FAILED, who,
           fmt::format("programs still keep the memory of {} sessions of port {} that are over: end them",
                       kept, options_.name));
    return;
  }
  if (memory_ && host_.queues_are_opening(options_.id)) {
    wait_for_queues(std::move(socket), peer, hello);
    return;
  }
  let_in(std::move(socket), peer, hello);
}

void AppPort::Impl::wait_for_queues(PeerSocket socket, const Peer& peer, const Hello& hello) {
  waiting_.emplace(Waiting{
      .socket = std::move(socket), .peer = peer, .hello = hello, .until_ns = now_ns() + kWelcomeWaitsNs});
  waiting_->timer = loop_.every(kWelcomeLookNs, [this] { look_at_waiting(); });
}

void AppPort::Impl::look_at_waiting() {
  if (has_ended(waiting_->socket.get())) {
    drop_waiting();
  } else if (now_ns() >= waiting_->until_ns || !host_.queues_are_opening(options_.id)) {
    Waiting waiting = std::move(*waiting_);
    drop_waiting();
    let_in(std::move(waiting.socket), waiting.peer, waiting.hello);
  }
}

void AppPort::Impl::drop_waiting() {
  if (waiting_) {
    loop_.cancel(waiting_->timer);
    waiting_.reset();
  }
}

void AppPort::Impl::let_in(PeerSocket socket, const Peer& peer, const Hello& hello) {
  const ucred& who = peer.who;
  auto second = socket.duplicate();  // attach() takes the socket; a refusal still needs it
  const PeerSocket for_refusal(second ? std::move(*second) : UniqueFd(), options_.doors);
  Result<void> done;
  try {
    done = attach(std::move(socket), who, hello.client);
  } catch (const std::bad_alloc&) {
    if (attached_) {  // half of it
      detach("no memory is left");
    }
    std::rethrow_exception(std::current_exception());
  }
  if (!done) {
    refused_.add(1);
    if (log_budget_.take()) {
      log::error("port {}: cannot attach pid {}: {}", options_.name, who.pid, done.error().message);
    }
    if (for_refusal) {
      send_refusal(for_refusal.get(), SLUICE_APP_FAILED, done.error().message);
    }
  }
}

void AppPort::Impl::refuse(int socket, sluice_app_status status, const ucred& peer,
                           const std::string& sentence) {
  send_refusal(socket, status, sentence);
  if (log_budget_.take()) {
    log::warn("port {}: refused pid {} of user {}: {}", options_.name, peer.pid, peer.uid, sentence);
  }
}

// ---- sessions

LanePolicy AppPort::Impl::policy(std::size_t lane) const {
  LanePolicy policy{
      .port = options_.id,
      .uplink = options_.uplink,
      .worker = options_.workers[lane],
      .sends = options_.worker_sends[lane],
      .vlan = options_.vlan,
      .source = {.macs = options_.source_macs, .vlan = options_.vlan, .limits = options_.limits}};
  policy.waker = options_.waker;
  policy.source.set_trust(options_.trust);
  return policy;
}

Result<void> AppPort::Impl::attach(PeerSocket socket, const ucred& peer, const std::string& client) {
  if (!memory_) {
    SLUICE_TRY(make_memory());
  }
  int fd = socket.get();
  attached_.emplace(
      Attached{.socket = std::move(socket),
               .who = {.pid = peer.pid, .uid = peer.uid, .client = client, .since_ns = now_ns()},
               .lanes = {}});
  auto watched = loop_.add(
      fd, EPOLLIN | EPOLLRDHUP, [this](std::uint32_t) { on_session(); },
      [this] { detach("no memory is left"); });
  if (!watched) {
    attached_.reset();
    return watched;
  }
  if (auto sent = welcome(); !sent) {
    detach("the welcome could not be sent");
    return sent;
  }
  attached_->mapping_timer = loop_.once(options_.hello_timeout_ns, [this] {
    attached_->mapping_timer = 0;
    hello_timeouts_.add(1);
    detach("it did not map its memory in time");
  });
  return {};
}

// What the app says after its hello: that it has mapped its memory. After that nothing is read, and its
// socket only tells when it ends.
void AppPort::Impl::on_session() {
  if (served()) {
    detach("the app closed");
    return;
  }
  if (options_.doors == nullptr) {
    take_mapped(read_mapped(attached_->socket.get()));
    return;
  }
  auto asked = open_door(attached_->socket, attached_->door, [this](std::uint32_t) { on_mapped_door(); });
  if (!asked) {
    refused_.add(1);
    detach(asked.error().message);
  }
}

void AppPort::Impl::on_mapped_door() {
  OneMessage message;
  if (!hear_message_door(attached_->door->channel.get(), message)) {
    return;
  }
  end_door(attached_->door);
  if (!loop_.add(attached_->socket.get(), EPOLLIN | EPOLLRDHUP, [this](std::uint32_t) { on_session(); })) {
    detach("its socket cannot be watched");
    return;
  }
  switch (message.report.what) {
    case MessageReport::What::kRead:
      take_mapped(judge_mapped(message.bytes, message.report.had_descriptors != 0));
      return;
    case MessageReport::What::kNotYet:
      return;
    case MessageReport::What::kClosed:
      detach("the app closed");
      return;
  }
}

void AppPort::Impl::take_mapped(MappedRead read) {
  switch (read) {
    case MappedRead::kNotYet:
      return;
    case MappedRead::kClosed:
      detach("the app closed");
      return;
    case MappedRead::kWrong:
      refused_.add(1);
      detach("what it said after its hello is not in the protocol");
      return;
    case MappedRead::kMapped:
      break;
  }
  if (auto served = serve(); !served) {
    refused_.add(1);
    detach(served.error().message);
  }
}

// The files that the app writes are sealed before a worker reads them: a hole that is being punched makes
// its readers wait for the end of the whole punch.
Result<void> AppPort::Impl::serve() {
  loop_.cancel(std::exchange(attached_->mapping_timer, 0));
  SLUICE_TRY(memory_->seal_app_files());
  SLUICE_TRY(loop_.modify(attached_->socket.get(), EPOLLRDHUP));
  stall_.assign(geometry_.lane_count, StallWatch{});
  for (std::uint32_t i = 0; i < geometry_.lane_count; ++i) {
    attached_->lanes.push_back(std::make_unique<AppLane>(memory_->lane(i), policy(i), counters_[i], *this));
    host_.install_lane(options_.id, options_.workers[i], attached_->lanes.back().get());
  }
  host_.set_attached(options_.id, true);
  attaches_.add(1);
  if (log_budget_.take()) {
    const Session& who = attached_->who;
    log::info("port {}: attached '{}', pid {}, user {}", options_.name, who.client, who.pid, who.uid);
  }
  return send_served(attached_->socket.get());  // last, so that everything works when the app reads it
}

Result<void> AppPort::Impl::welcome() {
  sluice_app_welcome welcome{};
  memory_->describe(welcome);
  if (!options_.source_macs.empty()) {
    std::memcpy(welcome.source_mac, options_.source_macs.front().data(), sizeof(welcome.source_mac));
  } else if (!options_.trust) {
    welcome.flags |= SLUICE_APP_NO_ADDRESS;
  }
  for (std::uint32_t i = 0; i < geometry_.lane_count; ++i) {
    if (options_.worker_sends[i]) {
      (i < 32 ? welcome.tx_lanes_low : welcome.tx_lanes_high) |= 1u << (i % 32);
    }
  }
  SLUICE_TRY(send_welcome(attached_->socket.get(), welcome, memory_->client_fds()));
  memory_->drop_client_fds();
  return {};
}

bool AppPort::Impl::has_ended(int socket) {
  pollfd state{.fd = socket, .events = POLLRDHUP, .revents = 0};
  return ::poll(&state, 1, 0) > 0;
}

void AppPort::Impl::detach(std::string_view why) {
  SLUICE_CHECK(attached_);
  if (attached_->mapping_timer != 0) {
    loop_.cancel(attached_->mapping_timer);
  }
  if (served()) {
    host_.set_attached(options_.id, false);
    detaches_.add(1);
  }
  for (std::size_t i = 0; i < attached_->lanes.size(); ++i) {
    host_.remove_lane(options_.id, options_.workers[i]);
    if (attached_->lanes[i]->under_pressure()) {
      host_.set_pressure(options_.id, options_.workers[i], false);
    }
    counters_[i].pages_lent.set(0);
  }
  end_door(attached_->door);
  loop_.remove(attached_->socket.get());
  if (log_budget_.take()) {
    log::info("port {}: detached pid {}: {}", options_.name, attached_->who.pid, why);
  }
  attached_.reset();
  kept_.add(memory_->take_watched_files());
  drop_memory();  // D2: no other session sees this arena
  if (!options_.owned.empty() && !ending_) {
    if (auto made = make_memory(); !made) {
      reopen_later(made.error());
    }
  }
}

void AppPort::Impl::check_stall() {
  if (!served()) {
    return;
  }
  std::uint64_t now = now_ns();
  for (std::uint32_t i = 0; i < geometry_.lane_count; ++i) {
    StallWatch& watch = stall_[i];
    std::uint64_t returned = counters_[i].pages_returned.value();
    bool full = counters_[i].pages_lent.value() >= geometry_.lane_limit[i];
    if (!full || returned != watch.returned || watch.full_since_ns == 0) {
      watch = {.returned = returned, .full_since_ns = full ? now : 0};
    } else if (now - watch.full_since_ns >= options_.stall_timeout_ns) {
      cut_off_.add(1);
      log::warn("port {}: pid {} holds {} pages of lane {} and has returned none for {} ms", options_.name,
                attached_->who.pid, geometry_.lane_limit[i], i, (now - watch.full_since_ns) / 1'000'000);
      detach("cut off, it returned no pages");
      return;
    }
  }
}

// ---- memory

Result<void> AppPort::Impl::make_memory() {
  if (auto room = need_descriptors(app_attach_descriptors(geometry_.lane_count)); !room) {
    return with_context(fmt::format("port {}: a session", options_.name), std::move(room.error()));
  }
  auto memory = SessionMemory::create(options_, geometry_, wake_price_);
  if (!memory) {
    return with_context(fmt::format("port {}: no memory for a session", options_.name),
                        std::move(memory.error()));
  }
  if (!options_.owned.empty()) {
    if (auto opened = host_.open_queues(options_.id, (*memory)->arena(), (*memory)->owned_pools()); !opened) {
      return with_context(fmt::format("port {}: cannot open its queues", options_.name),
                          std::move(opened.error()));
    }
  }
  memory_ = std::move(*memory);
  return {};
}

void AppPort::Impl::drop_memory() {
  if (!memory_) {
    return;
  }
  std::shared_ptr<SessionMemory> memory = std::move(memory_);
  auto drop = [holder = options_.id, memory]() mutable {
    memory->reclaim(holder);
    memory.reset();
  };
  memory.reset();
  if (options_.owned.empty()) {
    drop();
  } else {
    host_.close_queues(options_.id, std::move(drop));  // D7: not before nothing writes into the pages
  }
}

void AppPort::Impl::reopen_later(const Error& error) {
  log::error("{}; trying again every second", error.message);
  if (reopen_timer_ != 0) {
    return;
  }
  reopen_timer_ = loop_.every(kReopenNs, [this] {
    if (memory_ || make_memory()) {  // an app that attached may have been first
      loop_.cancel(std::exchange(reopen_timer_, 0));
    }
  });
}

// ---- what is shown

std::optional<AppPort::Session> AppPort::Impl::session() const {
  if (!served()) {
    return std::nullopt;
  }
  Session session = attached_->who;
  for (const AppLaneCounters& lane : counters_) {
    session.pages_held += static_cast<std::uint32_t>(lane.pages_lent.value());
  }
  return session;
}

void AppPort::Impl::visit(CounterVisitor& visitor) const {
  using Field = Counter AppLaneCounters::*;
  static constexpr std::pair<const char*, Field> kFields[] = {
      {"zero_copy", &AppLaneCounters::zero_copy},
      {"copied", &AppLaneCounters::copied},
      {"copied_bytes", &AppLaneCounters::copied_bytes},
      {"rx_packets", &AppLaneCounters::rx_packets},
      {"rx_bytes", &AppLaneCounters::rx_bytes},
      {"tx_packets", &AppLaneCounters::tx_packets},
      {"tx_bytes", &AppLaneCounters::tx_bytes},
      {"drop_ring_full", &AppLaneCounters::drop_ring_full},
      {"drop_page_limit", &AppLaneCounters::drop_page_limit},
      {"drop_too_long", &AppLaneCounters::drop_too_long},
      {"drop_vlan", &AppLaneCounters::drop_vlan},
      {"drop_tx_no_uplink", &AppLaneCounters::drop_tx_no_uplink},
      {"drop_tx_no_address", &AppLaneCounters::drop_tx_no_address},
      {"fault_return_forged", &AppLaneCounters::fault_return_forged},
      {"fault_return_double", &AppLaneCounters::fault_return_double},
      {"fault_return_foreign", &AppLaneCounters::fault_return_foreign},
      {"fault_ring_index", &AppLaneCounters::fault_ring_index},
      {"fault_tx_descriptor", &AppLaneCounters::fault_tx_descriptor},
      {"wakeups", &AppLaneCounters::wakeups},
  };
  for (const auto& [name, field] : kFields) {
    std::uint64_t sum = 0;
    for (const AppLaneCounters& lane : counters_) {
      sum += (lane.*field).value();
    }
    visitor.counter(name, sum);
  }
  visit_source_faults(counters_, visitor,
                      [](const AppLaneCounters& lane) -> const SourceCounters& { return lane.source; });
  wake_price_->visit(visitor);
  visitor.counter("attaches", attaches_.value());
  visitor.counter("detaches", detaches_.value());
  visitor.counter("denied", denied_.value());
  visitor.counter("refused", refused_.value());
  visitor.counter("hello_timeouts", hello_timeouts_.value());
  visitor.counter("cut_off", cut_off_.value());
}

void AppPort::Impl::visit_pools(const std::function<void(const PagePool&)>& visit) const {
  if (memory_) {
    memory_->visit_pools(visit);
  }
}

// ---- the public face

AppPort::AppPort(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AppPort::~AppPort() = default;

Result<std::unique_ptr<AppPort>> AppPort::create(AppPortOptions options, EventLoop& loop, AppPortHost& host) {
  std::string name = options.name;
  auto geometry = SessionGeometry::of(options);
  if (!geometry) {
    return with_context(fmt::format("port {}", name), std::move(geometry.error()));
  }
  auto impl = std::make_unique<Impl>(std::move(options), std::move(*geometry), loop, host);
  if (auto started = impl->start(); !started) {
    return with_context(fmt::format("port {}", name), std::move(started.error()));
  }
  return std::unique_ptr<AppPort>(new AppPort(std::move(impl)));
}

void AppPort::cut_off_stalled() {
  impl_->cut_off_stalled();
}

const WakePrice& AppPort::wake_price() const {
  return impl_->wake_price();
}

std::optional<AppPort::Session> AppPort::session() const {
  return impl_->session();
}
const AppPortOptions& AppPort::options() const {
  return impl_->options();
}
void AppPort::visit(CounterVisitor& visitor) const {
  impl_->visit(visitor);
}
void AppPort::visit_pools(const std::function<void(const PagePool&)>& visit) const {
  impl_->visit_pools(visit);
}

}  // namespace sluice
