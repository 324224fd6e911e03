#include "port/waker.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "base/burial.h"
#include "base/check.h"
#include "base/least_privilege.h"
#include "base/log.h"
#include "base/signals_blocked.h"

namespace sluice {

// ---- price

bool WakePrice::owes_too_much(std::uint64_t cost_ns, std::uint64_t dear_ns) {
  std::uint64_t debt_ns = debt_ns_.load(std::memory_order_relaxed);
  if (cost_ns <= dear_ns) {
    debt_ns -= std::min(debt_ns, kDebtPerCheapNs);
  } else {
    debt_ns += cost_ns >= kSurelyDearNs ? cost_ns : std::min(cost_ns, kDebtPerWakeNs);
  }
  const bool too_much = debt_ns > kMostDebtNs;
  debt_ns_.store(too_much ? 0 : debt_ns, std::memory_order_relaxed);
  return too_much;
}

void WakePrice::look(std::uint32_t peers, std::uint64_t ticks, const ThreadUsage* before) {
  const std::uint64_t now = now_ns();
  const std::uint64_t dear_ns = kDearWakeNs + (peers - 1) * kDearPerMoreNs;
  const auto wall_ns = static_cast<std::uint64_t>(static_cast<double>(ticks) / ticks_per_ns());
  if (before == nullptr) {
    if (wall_ns > dear_ns) {
      // It may have been preempted: who it woke likes to run at once, on the worker's own core.
      const std::uint32_t doublings =
          std::min(suspicions_.fetch_add(1, std::memory_order_relaxed), kMostDoublings);
      suspect_until_ns_.store(now + std::min(kSuspicionNs << doublings, kLongestSuspicionNs),
                              std::memory_order_relaxed);
    }
    return;
  }
  const std::uint64_t cost_ns =
      wall_ns <= dear_ns ? wall_ns : ThreadUsage::now().cost_since(*before, wall_ns);
  if (owes_too_much(cost_ns, dear_ns)) {
    dear_wakes_.fetch_add(1, std::memory_order_relaxed);
    relapses_.fetch_add(1, std::memory_order_relaxed);
    last_dear_ns_.store(now, std::memory_order_relaxed);
    dear_.store(true, std::memory_order_release);
  } else if (now >= suspect_until_ns_.load(std::memory_order_relaxed)) {
    suspect_until_ns_.store(0, std::memory_order_relaxed);
  }
}

void WakePrice::was_woken(std::uint64_t cost_ns, std::uint64_t now) {
  by_waker_.fetch_add(1, std::memory_order_relaxed);
  dear_wakes_.fetch_add(cost_ns > kDearWakeNs ? 1 : 0, std::memory_order_relaxed);
  if (owes_too_much(cost_ns, kDearWakeNs)) {
    last_dear_ns_.store(now, std::memory_order_relaxed);
    cheap_in_a_row_ = 0;
    return;
  }
  ++cheap_in_a_row_;
  const std::uint32_t relapses = relapses_.load(std::memory_order_relaxed);
  const std::uint64_t sober_ns = kForgiveNs << std::min(relapses == 0 ? 0 : relapses - 1, kMostDoublings);
  if (dear() && cheap_in_a_row_ >= kCheapWakes &&
      now - last_dear_ns_.load(std::memory_order_relaxed) >= sober_ns) {
    cheap_in_a_row_ = 0;
    dear_.store(false, std::memory_order_relaxed);
  }
}

void WakePrice::visit(CounterVisitor& visitor) const {
  visitor.counter("fault_wake_slow", dear_wakes());
  visitor.counter("wakes_by_waker", by_waker());
}

WakeTarget::~WakeTarget() {
  bury(std::move(fd_));
}

// ---- threads

namespace {

constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();

// A dear wake-up cannot be preempted: it keeps its core from everybody.
void keep_off(const std::vector<std::uint32_t>& cpus) {
  cpu_set_t set;
  if (cpus.empty() || ::sched_getaffinity(0, sizeof set, &set) != 0) {
    return;
  }
  for (const std::uint32_t cpu : cpus) {
    if (cpu < CPU_SETSIZE) {
      CPU_CLR(cpu, &set);
    }
  }
  if (CPU_COUNT(&set) > 0) {
    ::sched_setaffinity(0, sizeof set, &set);
  }
}

}  // namespace

Waker::Waker(const Options& options) : bell_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  SLUICE_CHECK(bell_, "eventfd: errno {}", errno);
  SignalsBlocked block;
  for (unsigned i = 0; i < options.threads; ++i) {
    threads_.emplace_back([this, options] { run(options); });
  }
}

Waker::~Waker() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  ring();
  for (std::thread& thread : threads_) {
    thread.join();
  }
  SLUICE_CHECK(targets_.empty(), "{} targets are not retired", targets_.size());
}

// The worker has published before it asks, and the waker takes back the word before it wakes: one that comes
// in between is asked for again. [label: ask]
void Waker::ask(WakeTarget& target) {
  if (!target.asked_.exchange(true, std::memory_order_seq_cst)) {
    ring();
  }
}

void Waker::ring() {
  const std::uint64_t one = 1;
  (void)!::write(bell_.get(), &one, sizeof one);
}

void Waker::add(std::shared_ptr<WakeTarget> target) {
  std::lock_guard lock(mutex_);
  targets_.push_back(std::move(target));
}

void Waker::retire(std::shared_ptr<WakeTarget> target) {
  {
    std::lock_guard lock(mutex_);
    const auto found = std::ranges::find(targets_, target);
    SLUICE_CHECK(found != targets_.end());
    std::swap(*found, targets_.back());
    targets_.pop_back();
    retired_.push_back(std::move(target));
  }
  reap();
}

void Waker::reap() {
  std::vector<std::shared_ptr<WakeTarget>> gone;  // dropped without the lock
  std::lock_guard lock(mutex_);
  const auto used = std::ranges::partition(retired_, [](const auto& target) { return target->in_use_; });
  std::ranges::move(used, std::back_inserter(gone));
  retired_.erase(used.begin(), used.end());
}

std::uint64_t Waker::targets() const {
  std::lock_guard lock(mutex_);
  return targets_.size();
}

void Waker::run(const Options& options) {
  ::pthread_setname_np(::pthread_self(), "sluice-waker");
  keep_off(options.cpus_of_workers);
  if (options.prepare) {
    options.prepare();
  }
  if (auto confined = confine_thread(ThreadKind::kWaker); !confined) {
    log::error("a waking thread keeps its privileges: {}", confined.error().message);
  }
  std::unique_lock lock(mutex_);
  while (!ending_) {
    std::uint64_t until = kNever;
    if (WakeTarget* target = next(now_ns(), until)) {
      ring();  // for the other threads: there may be more
      wake(*target, lock);
      continue;
    }
    lock.unlock();
    wait(until);
    lock.lock();
  }
}

// Who may be woken first is. A target is due when it is asked for, but not before its peer has rested.
WakeTarget* Waker::next(std::uint64_t now, std::uint64_t& wait_until_ns) {
  WakeTarget* first = nullptr;
  for (const auto& target : targets_) {
    if (target->due_ns_ == 0 && target->asked_.load(std::memory_order_relaxed)) {
      target->due_ns_ = std::max(now, target->price_->free_at_ns_);
    }
    if (target->due_ns_ != 0 && !target->price_->busy_ &&
        (first == nullptr || target->due_ns_ < first->due_ns_)) {
      first = target.get();
    }
  }
  if (first != nullptr && first->due_ns_ > now) {
    wait_until_ns = first->due_ns_;
    return nullptr;
  }
  return first;
}

void Waker::wake(WakeTarget& target, std::unique_lock<std::mutex>& lock) {
  WakePrice& price = *target.price_;
  target.due_ns_ = 0;
  target.in_use_ = price.busy_ = true;
  // Under the lock: another thread would find it asked for once more.
  target.asked_.exchange(false, std::memory_order_seq_cst);  // [label: ask]
  lock.unlock();
  const ThreadUsage before = ThreadUsage::now();
  const std::uint64_t begin = now_ns();
  const bool done = target.wake();
  const std::uint64_t end = now_ns();
  const std::uint64_t cost_ns = ThreadUsage::now().cost_since(before, end - begin);
  lock.lock();
  if (done) {
    price.was_woken(cost_ns, end);
    price.free_at_ns_ = end + kRestPerCost * cost_ns;
  } else {
    target.asked_.store(true, std::memory_order_relaxed);
    price.free_at_ns_ = end + kWakeRetryNs;
  }
  // The price may go with the last of its targets, which reap() takes from here on.
  target.in_use_ = price.busy_ = false;
}

void Waker::wait(std::uint64_t until_ns) {
  const std::uint64_t now = now_ns();
  const std::uint64_t wait_ns = until_ns > now ? until_ns - now : 0;
  const timespec time{.tv_sec = static_cast<time_t>(wait_ns / 1'000'000'000),
                      .tv_nsec = static_cast<long>(wait_ns % 1'000'000'000)};
  pollfd bell{.fd = bell_.get(), .events = POLLIN, .revents = 0};
  if (::ppoll(&bell, 1, until_ns == kNever ? nullptr : &time, nullptr) > 0) {
    std::lock_guard lock(mutex_);
    if (!ending_) {  // the last word is for all threads
      std::uint64_t rung = 0;
      (void)!::read(bell_.get(), &rung, sizeof rung);
    }
  }
}

}  // namespace sluice
