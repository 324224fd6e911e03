#include "port/guest/guest_port.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/descriptors.h"
#include "base/unix_socket.h"
#include "port/guest/guest_port_impl.h"
#include "port/guest/vhost_user/features.h"
#include "port/guest/virtio/ring/virtqueue.h"

namespace sluice {

namespace {

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

// ---- beginning and end

GuestPort::Impl::Impl(GuestPortOptions options, LossSignal loss, EventLoop& loop,
                      const PortServices& services, Doors& doors)
    : options_(std::move(options)),
      loop_(loop),
      services_(services),
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
               .serving = options_.serving,
               .waker = options_.waker,
               .scratch = options_.scratch},
              options_.workers, options_.queue_pairs),
      populator_(loop) {
  for (WorkerId worker : options_.workers) {
    services_.lanes.install_lane(options_.id, worker, &device_.lane(worker));
  }
}

GuestPort::Impl::~Impl() {
  candidate_.reset();  // or it would be attached when the other one is gone
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
    services_.lanes.remove_lane(options_.id, worker);
  }
}

Result<void> GuestPort::Impl::start() {
  SLUICE_TRY(
      loop_.add(loss_.fd(), EPOLLIN, [this](std::uint32_t) { on_loss(); }, [this] { run_out_of_memory(); }));
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
  const std::uint64_t now = now_ns();
  connect_timer_ = loop_.once(
      std::max(options_.retry_ns, std::max(shut_until_ns_, now) - now),
      [this] {
        connect_timer_ = 0;
        try_to_connect();
      },
      [this] { run_out_of_memory(); });
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

// A front-end that was killed and started again may be here before its door has told of its end; and a door
// that what it was sent holds up will never tell.
void GuestPort::Impl::wait_for_the_end(PeerSocket socket, const ucred& peer) {
  if (candidate_ && !hung_up(candidate_->socket.get())) {
    refuse(peer);
    return;
  }
  loop_.cancel(std::exchange(candidate_timer_, 0));
  candidate_.reset();
  candidate_.emplace(std::move(socket), peer);
  attached_->heard = false;
  attached_->channel.ask_whether_there();
  candidate_timer_ = loop_.once(options_.gives_way_ns, [this] {
    candidate_timer_ = 0;
    refuse_unless_held_up();
  });
}

void GuestPort::Impl::refuse_unless_held_up() {
  if (is_silent()) {
    candidate_timer_ = loop_.once(options_.held_up_ns, [this] {
      candidate_timer_ = 0;
      if (is_silent()) {
        detach("another front-end came, and what this one has sent holds its door up");
      } else if (candidate_) {
        refuse(std::exchange(candidate_, std::nullopt)->who);
      }
    });
  } else if (candidate_) {
    refuse(std::exchange(candidate_, std::nullopt)->who);
  }
}

// While it is not read on purpose, nothing follows from its silence. What is read may be its end, and then
// the candidate is in its place.
bool GuestPort::Impl::is_silent() {
  if (attached_ && !attached_->ending) {
    on_channel(EPOLLIN);
  }
  return candidate_ && attached_ && !attached_->ending && !attached_->heard && attached_->check == 0 &&
         attached_->resume_timer == 0 && !attached_->populating;
}

void GuestPort::Impl::refuse(const ucred& peer) {
  refused_.add(1);
  if (!std::exchange(refusal_logged_, true)) {
    log::warn("port {}: refused pid {}: pid {} is there", options_.name, peer.pid, attached_->who.pid);
  }
}

Result<void> GuestPort::Impl::attach(PeerSocket socket, const ucred& peer) {
  if (auto room = need_descriptors(guest_session_descriptors(options_.queue_pairs)); !room) {
    refused_.add(1);
    return with_context(fmt::format("a front-end, pid {}", peer.pid), std::move(room.error()));
  }
  loss_.begin();
  auto door = doors_.open(DoorKind::kGuest, options_.name, socket.release());
  if (!door) {
    refused_.add(1);
    return std::unexpected(std::move(door.error()));
  }
  auto watched = loop_.add(
      door->channel.get(), EPOLLIN | EPOLLRDHUP, [this](std::uint32_t events) { on_channel(events); },
      [this] { run_out_of_memory(); });
  if (!watched) {
    doors_.end(std::move(*door));
    return watched;
  }
  const int channel = door->channel.get();
  const std::uint64_t since = now_ns();
  try {
    attached_.emplace(std::move(*door), peer, options_, *this, loss_, memory_policy_);
  } catch (const std::bad_alloc&) {
    loop_.remove(channel);
    std::rethrow_exception(std::current_exception());
  }
  connects_.add(1);
  front_end_budget_.take(since);
  if (const std::uint64_t wait_ns = front_end_budget_.ns_until_ready(since); wait_ns != 0 && acceptor_) {
    connects_held_.add(1);
    acceptor_->hold(wait_ns);
  }
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
    services_.states.set_attached(options_.id, false);
  }
  if (attached_->resume_timer != 0) {
    loop_.cancel(std::exchange(attached_->resume_timer, 0));
  }
  if (std::exchange(attached_->populating, false)) {
    populator_.cancel();
  }
  if (attached_->check != 0) {
    doors_.cancel_check(std::exchange(attached_->check, 0));
  }
  loop_.remove(attached_->channel.fd());
  if (log_budget_.take()) {
    log::info("port {}: front-end gone, pid {}: {}", options_.name, attached_->who.pid, why);
  }
  doors_.end(std::move(attached_->door));
  attached_->ending = true;
  finish_detach();
}

// What was under way for this port found no memory: its front-end goes.
void GuestPort::Impl::run_out_of_memory() {
  if (attached_ && !attached_->ending) {
    detach("no memory is left");
  } else if (attached_ && attached_->resume_timer == 0) {
    finish_detach_later();
  }
  if (!attached_ && options_.role == GuestPortOptions::Role::kClient && connect_timer_ == 0) {
    connect_later();
  }
}

void GuestPort::Impl::finish_detach_later() {
  attached_->resume_timer =
      loop_.once(kLateRetryNs, [this] { finish_detach(); }, [this] { run_out_of_memory(); });
}

// D7: rings stop between two bursts, then the memory goes. While a worker does not come, the session stays,
// and the port takes no other.
void GuestPort::Impl::finish_detach() {
  attached_->resume_timer = 0;
  bool ended = false;
  try {
    ended = attached_->session.end(Patience::kShort);
    if (!ended) {
      note_late();
    }
  } catch (const std::bad_alloc&) {
    // Nothing has changed; it is tried again.
  }
  if (!ended) {
    finish_detach_later();
    return;
  }
  pauses_.add(1);
  stuck_ = false;
  attached_.reset();
  drop_calls();
  disconnects_.add(1);
  if (candidate_) {
    Candidate next = std::move(*candidate_);
    candidate_.reset();
    loop_.cancel(std::exchange(candidate_timer_, 0));
    if (now_ns() < shut_until_ns_) {
      refused_.add(1);
    } else if (auto done = attach(std::move(next.socket), next.who); !done && log_budget_.take()) {
      log::error("port {}: {}", options_.name, done.error().message);
    }
  }
  if (options_.role == GuestPortOptions::Role::kClient && connect_timer_ == 0) {
    connect_later();
  }
}

// ---- what is shown

VhostInfo GuestPort::Impl::vhost() const {
  VhostInfo info;
  info.socket = options_.socket;
  info.role = options_.role == GuestPortOptions::Role::kClient ? "client" : "server";
  info.trust = options_.trust;
  info.queue_pairs = options_.queue_pairs;
  info.limit_bytes = options_.memory_bytes;
  info.sealed = options_.sealed_memory;
  info.populate = options_.populate;
  info.calls_by_write = call_price().by_write();
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

namespace {

const char* state_of(const VhostInfo& info) {
  if (info.stuck) {
    return "stuck";
  }
  if (!info.connected) {
    return "waiting";
  }
  if (info.populating) {
    return "populating";
  }
  if (std::ranges::any_of(info.rings, &VhostInfo::Ring::broken)) {
    return "broken";
  }
  return info.running ? "running" : "connected";
}

}  // namespace

PortInfo GuestPort::Impl::info() const {
  PortInfo info;
  info.vhost = vhost();
  info.state = state_of(*info.vhost);
  info.descriptors = guest_port_descriptors(options_.workers.size()) +
                     (info.vhost->connected ? guest_session_descriptors(options_.queue_pairs) : 0);
  info.wakes = wakes_text(call_price().dear());
  if (info.vhost->connected) {
    info.peer = {.pid = info.vhost->pid, .uid = info.vhost->uid};
  }
  return info;
}

void GuestPort::Impl::visit(CounterVisitor& visitor) const {
  device_.visit(visitor);
  visitor.counter("connects", connects_.value());
  visitor.counter("connects_held", connects_held_.value() + (acceptor_ ? acceptor_->held() : 0));
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
                                                     const PortServices& services, Doors& doors) {
  SLUICE_TRY(check_options(options));
  auto loss = SLUICE_TRY(LossSignal::create());
  auto impl = std::make_unique<Impl>(std::move(options), std::move(loss), loop, services, doors);
  SLUICE_TRY(impl->start());
  return std::unique_ptr<GuestPort>(new GuestPort(std::move(impl)));
}

VhostInfo GuestPort::vhost() const {
  return impl_->vhost();
}
PortInfo GuestPort::info() const {
  return impl_->info();
}
PortId GuestPort::id() const {
  return options().id;
}
const CallPrice& GuestPort::call_price() const {
  return impl_->call_price();
}
const GuestPortOptions& GuestPort::options() const {
  return impl_->options();
}
void GuestPort::cut_off_stalled(std::uint64_t nobody_for_ns) {
  impl_->cut_off_stalled(nobody_for_ns);
}
void GuestPort::visit(CounterVisitor& visitor) const {
  impl_->visit(visitor);
}

}  // namespace sluice
