// Sleeping, waking, calling.
#include "port/guest/virtio/guest_lane.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <utility>

#include "port/guest/virtio/call_sender.h"

namespace sluice {

namespace {

// How long a sleeping worker leaves a queue alone that cannot wake it.
constexpr long kPollNs = 500'000;

SourcePolicy source_policy(const GuestPolicy& policy) {
  SourcePolicy source{.macs = policy.macs, .vlan = policy.vlan, .limits = policy.limits};
  source.set_trust(policy.trust);
  return source;
}

}  // namespace

GuestLane::GuestLane(const GuestPolicy& policy, CallPrice& call_price, GuestScratch& scratch)
    : Lane(Capabilities{}),
      policy_(policy),
      call_price_(call_price),
      scratch_(scratch),
      guard_(source_policy(policy)),
      longest_(kMaxFrameBytes - guard_.tag_bytes()),
      most_head_(guard_.most_head()),
      kicks_(::epoll_create1(EPOLL_CLOEXEC)) {
  activity.peers_memory = true;
}

GuestLane::~GuestLane() = default;

void GuestLane::set_queues(std::vector<Virtqueue*> receive, std::vector<Virtqueue*> transmit) {
  receive_ = std::move(receive);
  transmit_ = std::move(transmit);
  activity.changed = true;
  unwatched_ = 0;
  for (const Virtqueue* queue : transmit_) {
    unwatched_ += queue->watched() ? 0 : 1;
  }
  std::erase_if(touched_, [](const Virtqueue* queue) { return !queue->started(); });
  touched_.reserve(touched_.size() + receive_.size() + transmit_.size());  // the worker never allocates
  is_touched_.fill(false);
  for (const Virtqueue* queue : touched_) {
    is_touched_[queue->index()] = true;
  }
}

void GuestLane::watch(Virtqueue& queue) {
  activity.changed = true;
  epoll_event event{.events = EPOLLIN | EPOLLET, .data = {.ptr = &queue}};
  queue.set_watched(kicks_ && queue.kick_fd() >= 0 &&
                    ::epoll_ctl(kicks_.get(), EPOLL_CTL_ADD, queue.kick_fd(), &event) == 0);
}

// While the descriptor is open: the peer's end keeps the eventfd alive, and the set would never forget it.
void GuestLane::unwatch(Virtqueue& queue) {
  activity.changed = true;
  if (queue.watched()) {
    ::epoll_ctl(kicks_.get(), EPOLL_CTL_DEL, queue.kick_fd(), nullptr);
    queue.set_watched(false);
  }
}

void GuestLane::touch(Virtqueue& queue) {
  if (!is_touched_[queue.index()]) {
    is_touched_[queue.index()] = true;
    touched_.push_back(&queue);
  }
}

std::uint32_t GuestLane::poll() {
  call();
  // Once per turn: the budgets of the next one.
  walk_left_ = kWalkedPerTurn;
  wasted_left_ = kWastedPerTurn;
  return std::exchange(refused_, 0);
}

// Interrupts for what was given back since the last time, where the driver wants them: at most one per queue.
void GuestLane::call() {
  if (touched_.empty()) {
    return;
  }
  // Used buffers are published before it is asked whether the driver waits for them. [label: call]
  std::atomic_thread_fence(std::memory_order_seq_cst);
  std::array<GuestCall*, CallSender::kMost> due;
  std::size_t count = 0;
  std::erase_if(touched_, [&](Virtqueue* queue) {
    const BurstLock::Guard guard(queue->lock(), queue->shared());
    if (!guard) [[unlikely]] {
      return false;  // the next turn asks again
    }
    is_touched_[queue->index()] = false;
    if (!queue->with_ring([](auto& ring) { return ring.call_due(); })) {
      queue->counters().calls_suppressed.add(1);
    } else if (queue->call() != nullptr) {
      queue->counters().calls.add(1);
      due[count++] = queue->call();
    }
    if (count == due.size()) {
      make_calls(std::span(due).first(std::exchange(count, 0)));
    }
    return true;
  });
  make_calls(std::span(due).first(count));
}

// By the waker, when the guest is dear to call, and when this worker could not get what it calls by.
void GuestLane::make_calls(std::span<GuestCall* const> calls) {
  if (calls.empty()) {
    return;
  }
  CallSender* sender = nullptr;
  if (policy_.waker == nullptr || !call_price_.dear()) [[likely]] {
    sender = CallSender::of_this_thread();
  }
  if (sender != nullptr) [[likely]] {
    std::size_t sent = 0;
    std::array<int, CallSender::kMost> fds;
    std::ranges::transform(calls, fds.begin(), &GuestCall::fd);
    const auto send = [&] { sent = sender->send(std::span(fds).first(calls.size())); };
    if (policy_.waker == nullptr) {
      send();
    } else {
      call_price_.make(static_cast<std::uint32_t>(calls.size()), send);
    }
    call_price_.called_by_aio();
    if (sent == calls.size()) [[likely]] {
      return;
    }
    counters_.calls_failed.add(calls.size() - sent);
    calls = calls.subspan(sent);
  }
  for (GuestCall* call : calls) {
    if (policy_.waker != nullptr) {
      policy_.waker->ask(*call);
    } else if (sender == nullptr) {
      counters_.calls_failed.add(1);
    }
  }
}

bool GuestLane::prepare_sleep() {
  call();
  drain_kicks();
  bool work = refused_ != 0;
  for (Virtqueue* queue : transmit_) {
    queue->with_ring([](auto& ring) { ring.ask_for_kicks(); });
  }
  // Asked for kicks before looking once more. [label: kick]
  std::atomic_thread_fence(std::memory_order_seq_cst);
  for (Virtqueue* queue : transmit_) {
    work = work || queue->with_ring([](auto& ring) { return ring.has_available(); });
  }
  if (unwatched_ != 0 && !arm_timer()) {
    work = true;  // out of descriptors: the worker naps instead, and asks again
  }
  return work;
}

void GuestLane::woken() {
  for (Virtqueue* queue : transmit_) {
    queue->with_ring([](auto& ring) { ring.refuse_kicks(); });
  }
  drain_kicks();
}

// Nobody reads the peer's descriptors: reading could wait, or find them empty. An edge is enough to be woken,
// and taking it from the set is enough to sleep again.
void GuestLane::drain_kicks() {
  std::array<epoll_event, kKickEvents> events;
  const int count = ::epoll_wait(kicks_.get(), events.data(), kKickEvents, 0);
  for (int i = 0; i < count; ++i) {
    if (auto* queue = static_cast<Virtqueue*>(events[static_cast<std::size_t>(i)].data.ptr)) {
      queue->counters().kicks.add(1);
    }
  }
}

// Only a queue without a kick needs it, which is rare: an idle port has no descriptor for it.
bool GuestLane::make_timer() {
  timer_.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  epoll_event event{.events = EPOLLIN | EPOLLET, .data = {.ptr = nullptr}};
  return timer_ && ::epoll_ctl(kicks_.get(), EPOLL_CTL_ADD, timer_.get(), &event) == 0;
}

bool GuestLane::arm_timer() {
  if (!timer_ && !make_timer()) {
    timer_.reset();
    return false;
  }
  const itimerspec once{.it_interval = {}, .it_value = {.tv_sec = 0, .tv_nsec = kPollNs}};
  return ::timerfd_settime(timer_.get(), 0, &once, nullptr) == 0;
}

}  // namespace sluice
