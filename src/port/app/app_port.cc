#include "port/app/app_port.h"

#include <sys/epoll.h>

#include <algorithm>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/closer.h"
#include "base/descriptors.h"
#include "base/log.h"
#include "door/one_message.h"
#include "port/app/app_port_impl.h"

namespace sluice {

namespace {
constexpr std::uint64_t kReopenNs = 1'000'000'000;  // between tries to serve owned queues again
constexpr std::uint64_t kStallChecksPerTimeout = 4;
constexpr std::uint64_t kMinStallCheckNs = 1'000'000;
}  // namespace

// ---- beginning and end

Result<void> AppPort::Impl::start() {
  if (!options_.owned.empty()) {
    SLUICE_TRY(has_room());
    SLUICE_TRY(use_memory(SessionMemory::create(options_, geometry_)));  // the operator waits, and no peer
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
  ending_ = true;
  for (EventLoop::TimerId timer : {stall_timer_, reopen_timer_}) {
    if (timer != 0) {
      loop_.cancel(timer);
    }
  }
  while (!pending_.empty()) {
    take_pending(pending_.begin());
  }
  if (waiting_) {
    take_waiting();
  }
  if (attached_) {
    detach("the port is removed");
  }
  if (acceptor_ && options_.doors != nullptr) {
    options_.doors->bury(acceptor_->release());  // with the connections that nobody has taken
  }
  drop_memory();
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
  int fd = socket.get();
  attached_.emplace(
      Attached{.socket = std::move(socket),
               .who = {.pid = peer.pid, .uid = peer.uid, .client = client, .since_ns = now_ns()},
               .serial = ++last_serial_,
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
  if (served() || attached_->sealing) {
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
  seal();
}

// The files that the app writes are sealed before a worker reads them: a hole that is being punched makes
// its readers wait for the end of the whole punch, and so it does who seals the file.
void AppPort::Impl::seal() {
  loop_.cancel(std::exchange(attached_->mapping_timer, 0));
  attached_->sealing = true;
  if (auto quiet = loop_.modify(attached_->socket.get(), EPOLLRDHUP); !quiet) {
    detach(quiet.error().message);
    return;
  }
  auto files = std::make_shared<std::vector<SessionMemory::AppFile>>(memory_->take_app_files());
  auto sealed = std::make_shared<Result<void>>();
  off_loop_.run([files, sealed] { *sealed = SessionMemory::seal(std::move(*files)); },
                [this, sealed, serial = attached_->serial] {
                  if (attached_ && attached_->serial == serial) {  // it may have gone meanwhile
                    if (auto served = *sealed ? serve() : *sealed; !served) {
                      refused_.add(1);
                      detach(served.error().message);
                    }
                  }
                  when_idle();
                });
}

Result<void> AppPort::Impl::serve() {
  stall_.assign(geometry_.lane_count, StallWatch{});
  for (std::uint32_t i = 0; i < geometry_.lane_count; ++i) {
    attached_->lanes.push_back(std::make_unique<AppLane>(memory_->lane(i), policy(i), counters_[i], *this));
    services_.lanes.install_lane(options_.id, options_.workers[i], attached_->lanes.back().get());
  }
  services_.states.set_attached(options_.id, true);
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
  describe_port(options_, welcome);
  SLUICE_TRY(send_welcome(attached_->socket.get(), welcome, memory_->client_fds()));
  memory_->drop_client_fds();
  return {};
}

void AppPort::Impl::detach(std::string_view why) {
  SLUICE_CHECK(attached_);
  if (attached_->mapping_timer != 0) {
    loop_.cancel(attached_->mapping_timer);
  }
  if (served()) {
    services_.states.set_attached(options_.id, false);
    detaches_.add(1);
  }
  for (std::size_t i = 0; i < attached_->lanes.size(); ++i) {
    services_.lanes.remove_lane(options_.id, options_.workers[i]);
    if (attached_->lanes[i]->under_pressure()) {
      services_.states.set_pressure(options_.id, options_.workers[i], false);
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
  when_idle();
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
      if (log_budget_.take()) {
        log::warn("port {}: pid {} holds {} pages of lane {} and has returned none for {} ms", options_.name,
                  attached_->who.pid, geometry_.lane_limit[i], i, (now - watch.full_since_ns) / 1'000'000);
      }
      detach("cut off, it returned no pages");
      return;
    }
  }
}

// ---- memory

Result<void> AppPort::Impl::use_memory(Result<std::unique_ptr<SessionMemory>> made) {
  if (!made) {
    return with_context(fmt::format("port {}: no memory for a session", options_.name),
                        std::move(made.error()));
  }
  if (!options_.owned.empty()) {
    if (auto opened = services_.queues.open_queues(options_.id, (*made)->arena(), (*made)->owned_pools());
        !opened) {
      let_go(std::move(*made));
      return with_context(fmt::format("port {}: cannot open its queues", options_.name),
                          std::move(opened.error()));
    }
  }
  memory_ = std::move(*made);
  memory_->begin_wakes(options_.waker, wake_price_);
  return {};
}

Result<void> AppPort::Impl::has_room() const {
  if (auto room = need_descriptors(app_attach_descriptors(geometry_.lane_count)); !room) {
    return with_context(fmt::format("port {}: a session", options_.name), std::move(room.error()));
  }
  return {};
}

// Hundreds of megabytes take seconds, so another thread allocates them.
void AppPort::Impl::make_memory() {
  if (off_loop_.busy()) {
    return;  // when_idle() comes back to it
  }
  if (auto room = has_room(); !room) {
    on_made(std::unexpected(std::move(room.error())));
    return;
  }
  struct Making {
    AppPortOptions options;
    SessionGeometry geometry;
    Result<std::unique_ptr<SessionMemory>> made;
  };
  auto making = std::make_shared<Making>(Making{options_, geometry_, std::unique_ptr<SessionMemory>()});
  off_loop_.run(
      [making] {
        try {
          making->made = SessionMemory::create(making->options, making->geometry);
        } catch (const std::bad_alloc&) {
          making->made = fail("no memory is left");
        }
      },
      [this, making] { on_made(std::move(making->made)); });
}

void AppPort::Impl::on_made(Result<std::unique_ptr<SessionMemory>> made) {
  if (made && options_.owned.empty() && !waiting_) {
    let_go(std::move(*made));  // who wanted it has gone
    return;
  }
  if (auto used = use_memory(std::move(made)); !used) {
    if (waiting_) {
      give_up(take_waiting(), used.error());
    }
    if (!options_.owned.empty()) {
      reopen_later(used.error());
    }
    return;
  }
  advance();
}

// Nothing is under way on the other thread: what has to wait for that, begins.
void AppPort::Impl::when_idle() {
  if (!options_.owned.empty() && !memory_ && reopen_timer_ == 0 && !ending_) {
    make_memory();  // its queues are served also while no app is there
  }
  advance();
}

void AppPort::Impl::drop_memory() {
  if (!memory_) {
    return;
  }
  std::shared_ptr<SessionMemory> memory = std::move(memory_);
  auto drop = [holder = options_.id, memory]() mutable {
    memory->reclaim(holder);
    let_go(std::move(memory));
  };
  memory.reset();
  if (options_.owned.empty()) {
    drop();
  } else {
    services_.queues.close_queues(options_.id,
                                  std::move(drop));  // D7: not before nothing writes into the pages
  }
}

// To give hundreds of megabytes back takes as long. Descriptors go at once: KeptMemory counts who has them.
void AppPort::Impl::let_go(std::shared_ptr<SessionMemory> memory) {
  memory->end_wakes();
  memory->take_app_files();
  Closer::of_process().run([memory = std::move(memory)] {});
}

void AppPort::Impl::reopen_later(const Error& error) {
  if (log_budget_.take()) {
    log::error("{}; trying again every second", error.message);
  }
  if (reopen_timer_ != 0) {
    return;
  }
  reopen_timer_ = loop_.every(kReopenNs, [this] {
    if (memory_) {  // an app that came may have been first
      loop_.cancel(std::exchange(reopen_timer_, 0));
    } else {
      make_memory();
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
  visit_lanes(counters_, visitor);
  wake_price_->visit(visitor);
  visitor.counter("attaches", attaches_.value());
  visitor.counter("attaches_held", attaches_held_.value());
  visitor.counter("connects_held", acceptor_ ? acceptor_->held() : 0);
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

PortInfo AppPort::Impl::info() const {
  const std::optional<Session> served = session();
  PortInfo info;
  info.state = served ? "attached" : "detached";
  info.pages = {.held = served ? served->pages_held : 0, .limit = options_.pages};
  info.sends = !options_.source_macs.empty() || options_.trust;
  info.descriptors = kAppPortDescriptors + (served ? app_session_descriptors(options_.workers.size()) : 0);
  info.wakes = wakes_text(wake_price_->dear());
  if (served) {
    info.peer = {.pid = served->pid, .uid = served->uid, .client = served->client};
  }
  return info;
}

// ---- the public face

AppPort::AppPort(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AppPort::~AppPort() = default;

Result<std::unique_ptr<AppPort>> AppPort::create(AppPortOptions options, EventLoop& loop,
                                                 const PortServices& services) {
  std::string name = options.name;
  auto geometry = SessionGeometry::of(options);
  if (!geometry) {
    return with_context(fmt::format("port {}", name), std::move(geometry.error()));
  }
  auto impl = std::make_unique<Impl>(std::move(options), std::move(*geometry), loop, services);
  if (auto started = impl->start(); !started) {
    return with_context(fmt::format("port {}", name), std::move(started.error()));
  }
  return std::unique_ptr<AppPort>(new AppPort(std::move(impl)));
}

PortId AppPort::id() const {
  return options().id;
}

void AppPort::cut_off_stalled(std::uint64_t nobody_for_ns) {
  impl_->cut_off_stalled(nobody_for_ns);
}

PortInfo AppPort::info() const {
  return impl_->info();
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
