#include "worker/loop.h"

#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/pause_cpu.h"
#include "base/ticks.h"
#include "port/last_signal.h"
#include "worker/forward/switch.h"

namespace sluice {

namespace {

// A busy worker that naps on and on takes its descriptors out of epoll: the kernel would tell epoll of each
// burst on a socket that is watched, on the CPU that receives. From then on its core is kept awake, if it was
// asked to.
constexpr std::uint32_t kNapsBeforeUnwatched = 64;

// Turns with more to do. Naps of 50 us between 256 of 64 packets each cost the others a tenth of their rate
// at most.
constexpr std::uint32_t kTurnsBetweenYields = 256;
constexpr std::uint32_t kLongestYieldNs = 50'000;

// Between two looks at the resting lanes' descriptors of a worker that does not rest. One that rests looks
// after each rest.
constexpr std::uint32_t kTurnsBetweenLooks = 64;

constexpr int kWakeEvents =
    16;  // looked at per wake-up; only the mailbox's matters, the rest says "look everywhere"

}  // namespace

Loop::Loop(const WorkerOptions& options, Mailbox& mailbox)
    : id_(options.id),
      idle_(options.idle),
      nap_ns_(options.latency_us * 1000),
      mailbox_(mailbox),
      policy_(nap_ns_),
      wire_{{.fd = mailbox.wake_fd(), .events = POLLIN, .revents = 0}} {
  forwarder_.set_meter(&meter_);
  active_.set_meter(&meter_);
}

void Loop::start_keeper() {
  keeper_ = std::make_unique<Haltpoll>(fmt::format("sluice-k{}", raw(id_)));
}

void Loop::run() {
  while (!stopped_) {
    turn();
    if (mailbox_.pending()) {
      run_calls();
    } else if (!more_) {
      rest();
    } else {
      note_residence();
      if (++turns_since_yield_ >= kTurnsBetweenYields) {
        yield_to_peers();
      }
    }
  }
}

// Who begins moves on by one per turn, so that nobody is always first at a destination that is nearly full.
template <typename Sources, typename Visit>
void Loop::serve_all(const Sources& sources, Visit visit) {
  const std::size_t count = sources.size();
  for (std::size_t i = 0, at = count == 0 ? 0 : first_ % count; i < count; ++i) {
    visit(sources[at]);
    at = at + 1 == count ? 0 : at + 1;
  }
}

// One turn. Bounded (D6): at most kBurst packets and kTurnBytes from each queue and each lane, one poll() of
// each.
void Loop::turn() {
  turns_.add(1);
  more_ = false;
  first_seen_ = 0;
  last_signal_ticks = 0;
  ++first_;
  if (meter_.begin_turn()) [[unlikely]] {
    wake_set_.reset();  // a port that is not served wakes nobody
  }
  if (++turns_since_look_ >= kTurnsBetweenLooks) {
    look_at_resting();
  }
  serve_all(tables_.queues, [this](Polled* queue) { serve(PortId::kKernel, *queue); });
  serve_all(active_.lanes(), [this](const ActiveLanes::Entry& entry) {
    auto [port, lane] = entry;
    if (meter_.skips(port)) [[unlikely]] {
      meter_.count_skipped_turn(port);
    } else if (serve(port, *lane)) {
      lane->activity.quiet_turns = 0;
    }
  });
  if (!forwarder_.roused().empty()) [[unlikely]] {
    active_.rouse(forwarder_.roused());
    wake_set_.reset();
  }
  bool quiet = false;
  for (Polled* queue : tables_.queues) {
    const std::uint32_t done = queue->poll();
    more_ |= done >= kBurst;
    since_rest_.useful |= done != 0;
  }
  for (auto [port, lane] : active_.lanes()) {
    if (meter_.skips(port)) [[unlikely]] {
      continue;
    }
    meter_.enter(port);
    const std::uint32_t done = lane->poll();
    more_ |= done >= kBurst;
    quiet |= ActiveLanes::note(*lane, done != 0);
  }
  if (quiet) [[unlikely]] {
    active_.let_rest();
    wake_set_.reset();  // watches the resting ones by their set from now on
  }
}

void Loop::look_at_resting() {
  meter_.enter(PortMeter::kOwn);
  turns_since_look_ = 0;
  if (active_.look()) {
    wake_set_.reset();  // watches those that were active when it was made
  }
}

// Takes a burst of a source and forwards it. kKernel: a queue of the wire, which costs no port anything.
// False: there was none.
bool Loop::serve(PortId port, Source& source) {
  const std::uint16_t place = port == PortId::kKernel ? PortMeter::kOwn : raw(port);
  meter_.enter(place);
  const std::uint64_t seen = meter_.since();
  BurstInfo info{.domain = domain_of(port), .port = port};
  const std::uint32_t count = source.burst(packets_in_hand_, info);
  more_ |= count == kBurst || info.more;
  if (count == 0) {
    return false;
  }
  SLUICE_CHECK(count <= kBurst, "port {}, nic {} queue {} gave {} packets", raw(port), raw(info.nic),
               raw(info.queue), count);
  info.timestamp_ns = now_ns();
  const std::span<Packet> burst = std::span(packets_in_hand_).first(count);
  const bool from_wire = port == PortId::kKernel;
  if (!from_wire && tables_.switching != nullptr) {
    tables_.switching->route(id_, info, burst);
  }
  const std::span<Packet> left = forwarder_.forward(info, burst, tables_.by_port, tables_.switching);
  meter_.enter(place);
  source.done(left);
  note_burst(seen, from_wire, count);
  return true;
}

void Loop::note_burst(std::uint64_t seen, bool from_wire, std::uint32_t count) {
  packets_.add(count);
  tx_packets_.add(from_wire ? 0 : count);
  if (first_seen_ == 0) {
    first_seen_ = seen;
    first_received_ = from_wire;
  }
  since_rest_.packets += count;
  since_rest_.useful = true;
  since_rest_.received |= from_wire;
}

void Loop::run_calls() {
  meter_.enter(PortMeter::kOwn);
  wake_set_.reset();  // before the calls: their callers may close what it watches
  mailbox_.run_pending();
  active_.refresh(tables_.lanes);
  wire_ = {{.fd = mailbox_.wake_fd(), .events = POLLIN, .revents = 0}};
  for (const Polled* queue : tables_.queues) {
    wire_.push_back({.fd = queue->wake_fd(), .events = POLLIN, .revents = 0});  // -1: is not looked at
  }
}

// Visits queues, then active lanes, until `visit` says false.
template <typename Visit>
void Loop::for_each_lane(Visit visit) {
  for (Polled* queue : tables_.queues) {
    meter_.enter(PortMeter::kOwn);
    if (!visit(*queue)) {
      return;
    }
  }
  for (auto [port, lane] : active_.lanes()) {
    if (meter_.skips(port)) [[unlikely]] {
      continue;
    }
    meter_.enter(port);
    if (!visit(*lane)) {
      return;
    }
  }
}

// Every source is drained and every lane polled, so everything is published and its reader woken. No look
// "once more": what came meanwhile is seen after the nap, or by prepare_sleep().
void Loop::rest() {
  announce_rest();
  note_residence();
  RestPolicy::Work work = std::exchange(since_rest_, {});
  if (idle_ == WorkerOptions::Idle::kSpin) {
    if (work.packets == 0) {
      pause_cpu();
    }
    return;
  }
  work.now_ns = now_ns();
  switch (policy_.next(work)) {
    case RestPolicy::Rest::kSpin:
      spin();
      break;
    case RestPolicy::Rest::kNap:
      nap(nap_ns_);
      break;
    case RestPolicy::Rest::kWireNap:
      nap_for_wire();
      break;
    case RestPolicy::Rest::kSleep:
      sleep();
      break;
  }
}

// Until the last reader is woken or the kernel is kicked: up to the system call, which is the sleeper's
// wake-up (10 us on another CPU of a virtual machine) or the kernel's way to the wire. If nobody was
// signalled, it ends now.
void Loop::note_residence() {
  if (first_seen_ == 0) {
    return;
  }
  const std::uint64_t ticks = (last_signal_ticks != 0 ? last_signal_ticks : now_ticks()) - first_seen_;
  (first_received_ ? received_stays_ : sent_stays_)
      .note(static_cast<std::uint64_t>(static_cast<double>(ticks) / ticks_per_ns()));
}

void Loop::announce_rest() {
  for_each_lane([](Sleeper& lane) {
    lane.before_rest();
    return true;
  });
  meter_.enter(PortMeter::kOwn);
}

// After it was kept from running for long, a worker finds more than a peer's ring holds. An app on its core
// would see none of it before the worker is done, and the ring overflow; the NIC's ring, emptied meanwhile,
// holds what comes during a nap.
void Loop::yield_to_peers() {
  if (idle_ == WorkerOptions::Idle::kSpin) {
    return;
  }
  bool behind = false;
  for_each_lane([&](Sleeper& lane) {
    behind = lane.peer_is_behind();
    return !behind;
  });
  if (!behind) {
    return;
  }
  turns_since_yield_ = 0;
  yields_.add(1);
  announce_rest();
  nap(std::min(nap_ns_, kLongestYieldNs));
}

// The next turn looks at everything. Meanwhile whoever shares the core, perhaps the peer that has just been
// woken, has it.
void Loop::spin() {
  spins_.add(1);
  meter_.enter(PortMeter::kResting);
  const std::uint64_t begin = now_ns();
  ::sched_yield();
  const std::uint64_t end = now_ns();
  policy_.offered(end, end - begin);
  meter_.enter(PortMeter::kOwn);
}

void Loop::nap(std::uint32_t ns) {
  naps_.add(1);
  if (++naps_in_a_row_ == kNapsBeforeUnwatched) {
    wake_set_.reset();
    if (keeper_ != nullptr) {
      keeper_->keep_awake();
      kept_awake_.add(1);
    }
  }
  meter_.enter(PortMeter::kResting);
  const std::uint64_t begin = now_ns();
  const timespec time{.tv_sec = 0, .tv_nsec = static_cast<long>(ns)};
  ::clock_nanosleep(CLOCK_MONOTONIC, 0, &time, nullptr);
  if (ns == nap_ns_) {
    policy_.napped(now_ns() - begin);
  }
  turns_since_look_ = kTurnsBetweenLooks;
  meter_.enter(PortMeter::kOwn);
}

// Only the queues are asked to wake the worker, and it does not listen to anybody else. Without an epoll set:
// while it is busy later, the kernel would tell that of every burst.
void Loop::nap_for_wire() {
  naps_in_a_row_ = 0;
  naps_.add(1);
  wire_naps_.add(1);
  bool work = false;
  for (Polled* queue : tables_.queues) {
    work |= queue->prepare_sleep();
  }
  if (!work) {
    meter_.enter(PortMeter::kResting);
    const timespec time{.tv_sec = 0, .tv_nsec = static_cast<long>(nap_ns_)};
    const int count = ::ppoll(wire_.data(), wire_.size(), &time, nullptr);
    meter_.enter(PortMeter::kOwn);
    if (count > 0 && (wire_.front().revents & POLLIN) != 0) {
      mailbox_.drain();
    }
  }
  for (Polled* queue : tables_.queues) {
    queue->woken();
  }
  turns_since_look_ = kTurnsBetweenLooks;
}

// No wake-up is lost: every lane is asked to wake us first and looked at afterwards (port.h, prepare_sleep),
// and the mailbox's eventfd is written with every call.
void Loop::sleep() {
  naps_in_a_row_ = 0;
  if (keeper_ != nullptr) {
    keeper_->let_rest();
  }
  if (!wake_set_) {
    wake_set_ = make_wake_set();
  }
  if (!wake_set_) {
    nap(nap_ns_);
    return;
  }
  std::size_t asked = 0;
  bool work = false;
  for_each_lane([&](Sleeper& lane) {
    ++asked;
    work = lane.prepare_sleep();
    return !work;
  });
  if (work) {
    sleeps_refused_.add(1);
  } else {
    sleeps_.add(1);
    std::array<epoll_event, kWakeEvents> events;
    meter_.enter(PortMeter::kResting);
    const int count = ::epoll_wait(wake_set_.get(), events.data(), kWakeEvents, -1);
    SLUICE_CHECK(count >= 0 || errno == EINTR, "epoll_wait: errno {}", errno);
    meter_.enter(PortMeter::kOwn);
    wakeups_.add(1);
    for (int i = 0; i < count; ++i) {
      if (events[static_cast<std::size_t>(i)].data.fd == mailbox_.wake_fd()) {
        mailbox_.drain();
      }
    }
  }
  for_each_lane([&](Sleeper& lane) {
    if (asked == 0) {
      return false;
    }
    --asked;
    lane.woken();
    return true;
  });
  meter_.enter(PortMeter::kOwn);
  turns_since_look_ = kTurnsBetweenLooks;
}

// A new set and not a changed one: a lane's eventfd may live on in the peer after our descriptor of it is
// closed, and a set can then no longer be told to forget it.
UniqueFd Loop::make_wake_set() {
  UniqueFd set(::epoll_create1(EPOLL_CLOEXEC));
  if (!set) {
    return {};  // out of descriptors: naps until that is better
  }
  auto add = [&set](int fd) {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    // EEXIST: two lanes share one descriptor.
    return fd < 0 || ::epoll_ctl(set.get(), EPOLL_CTL_ADD, fd, &event) == 0 || errno == EEXIST;
  };
  bool complete = add(mailbox_.wake_fd()) && (active_.resting() == 0 || add(active_.wake_fd()));
  for_each_lane([&](Sleeper& lane) { return complete = complete && add(lane.wake_fd()); });
  return complete ? std::move(set) : UniqueFd();  // out of memory, or over max_user_watches
}

void Loop::visit(CounterVisitor& visitor) const {
  visitor.counter("turns", turns_.value());
  visitor.counter("packets", packets_.value());
  visitor.counter("tx_packets", tx_packets_.value());
  visitor.counter("spins", spins_.value());
  visitor.counter("naps", naps_.value());
  visitor.counter("wire_naps", wire_naps_.value());
  visitor.counter("kept_awake", kept_awake_.value());
  visitor.counter("yields", yields_.value());
  visitor.counter("sleeps", sleeps_.value());
  visitor.counter("sleeps_refused", sleeps_refused_.value());
  visitor.counter("wakeups", wakeups_.value());
  visitor.counter("calls", mailbox_.count());
  visitor.counter("residence_rx_p50_ns", received_stays_.quantile_ns(0.5));
  visitor.counter("residence_rx_p99_ns", received_stays_.quantile_ns(0.99));
  visitor.counter("residence_tx_p50_ns", sent_stays_.quantile_ns(0.5));
  visitor.counter("residence_tx_p99_ns", sent_stays_.quantile_ns(0.99));
  active_.visit(visitor);
  forwarder_.visit(visitor);
}

}  // namespace sluice
