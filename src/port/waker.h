// Waker: threads that wake peers whose wake-ups are dear, so that no worker does.
//
// What it costs to wake somebody is the sleeper's to choose: everything that watches its descriptor is told,
// by who wakes it, in the kernel and without a pause (a hundred thousand epoll watches: 20 ms; O_ASYNC: a
// signal to each of a process group). On Linux before 6.8 a send to an AF_UNIX socket may also collect the
// garbage of all processes. So each wake-up of a worker's is timed, and who was dear once is woken by others.
//
//            dear, by CPU time
//   direct  ------------------------------------------->  by the waker
//   (worker)<-------------------------------------------
//            kCheapWakes in a row, and kForgiveNs after the last dear one, doubled with each time
//
// A dear peer is woken again only after kRestPerCost times what its last wake-up cost, and who may be woken
// first is. So a peer delays itself, and others by one wake-up at most, however many are as bad; each is
// woken at last. A lane that is dear has one wake-up under way: what it asks for meanwhile is the same one.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "base/thread_usage.h"
#include "base/ticks.h"
#include "port/last_signal.h"
#include "stats/counter.h"

namespace sluice {

// A wake-up of a sleeping thread on another CPU of a virtual machine takes 10 us.
inline constexpr std::uint64_t kDearWakeNs = 100'000;
// More for each further descriptor signalled by the same call.
inline constexpr std::uint64_t kDearPerMoreNs = 10'000;
// A peer is dear when its wake-ups that were dear add up to more than kMostDebtNs, each cheap one making up
// for kDebtPerCheapNs. One alone counts for kDebtPerWakeNs at most, unless it took kSurelyDearNs: a pause by
// the hypervisor, and interrupts, look like CPU time too.
inline constexpr std::uint64_t kMostDebtNs = 1'000'000;
inline constexpr std::uint64_t kDebtPerWakeNs = 500'000;
inline constexpr std::uint64_t kDebtPerCheapNs = 50'000;
inline constexpr std::uint64_t kSurelyDearNs = 20'000'000;
// How long the wake-ups of who was slow are measured by CPU time, which is two system calls more. Doubled
// with each time that nothing was found, up to kLongestSuspicionNs: one slow wake-up each is not measured.
inline constexpr std::uint64_t kSuspicionNs = 10'000'000'000;
inline constexpr std::uint64_t kLongestSuspicionNs = 3'600'000'000'000;
inline constexpr std::uint32_t kCheapWakes = 256;
inline constexpr std::uint64_t kForgiveNs = 10'000'000'000;
inline constexpr std::uint32_t kMostDoublings = 10;
inline constexpr std::uint64_t kRestPerCost = 8;
inline constexpr std::uint64_t kWakeRetryNs = 100'000'000;  // of one that could not be made at all
inline constexpr unsigned kWakerThreads = 2;

// What the wake-ups of one port's peer cost, and so who makes them. Belongs to the port, since a peer can
// come anew at any time. Workers and waker threads; nothing here is waited for.
class WakePrice {
 public:
  // --- workers ---
  bool dear() const { return dear_.load(std::memory_order_acquire); }
  // Makes a wake-up of `peers` descriptors here, and looks at what it cost.
  template <typename Wake>
  void make(std::uint32_t peers, Wake&& wake) {
    const bool measured = suspect_until_ns_.load(std::memory_order_relaxed) != 0;
    ThreadUsage before;
    if (measured) [[unlikely]] {
      before = ThreadUsage::now();
    }
    const std::uint64_t begin = now_ticks();
    last_signal_ticks = begin;
    wake();
    const std::uint64_t ticks = now_ticks() - begin;
    if (measured || ticks > dear_ticks()) [[unlikely]] {
      look(peers, ticks, measured ? &before : nullptr);
    }
  }

  // --- waker threads, one at a time ---
  void was_woken(std::uint64_t cost_ns, std::uint64_t now);

  // --- any thread ---
  std::uint64_t dear_wakes() const { return dear_wakes_.load(std::memory_order_relaxed); }
  std::uint64_t by_waker() const { return by_waker_.load(std::memory_order_relaxed); }
  void visit(CounterVisitor& visitor) const;  // fault_wake_slow, wakes_by_waker

 private:
  static std::uint64_t dear_ticks() {
    static const auto kTicks = static_cast<std::uint64_t>(ticks_per_ns() * static_cast<double>(kDearWakeNs));
    return kTicks;
  }
  void look(std::uint32_t peers, std::uint64_t ticks, const ThreadUsage* before);
  bool owes_too_much(std::uint64_t cost_ns, std::uint64_t dear_ns);

  std::atomic<bool> dear_{false};
  std::atomic<std::uint64_t> suspect_until_ns_{0};  // 0: no suspect
  std::atomic<std::uint32_t> suspicions_{0}, relapses_{0};
  std::atomic<std::uint64_t> last_dear_ns_{0};
  std::atomic<std::uint64_t> debt_ns_{0};
  std::atomic<std::uint64_t> dear_wakes_{0}, by_waker_{0};

  // The waker's, under its lock.
  friend class Waker;
  std::uint32_t cheap_in_a_row_ = 0;
  std::uint64_t free_at_ns_ = 0;
  bool busy_ = false;
};

// One descriptor by which a peer is woken. The lane and the waker share it, so that the end of a session
// waits for neither (D7).
class WakeTarget {
 public:
  WakeTarget(UniqueFd fd, std::shared_ptr<WakePrice> price) : fd_(std::move(fd)), price_(std::move(price)) {}
  // On the control thread: the descriptor may be the last reference to a peer's (base/burial.h).
  virtual ~WakeTarget();
  WakeTarget(const WakeTarget&) = delete;
  WakeTarget& operator=(const WakeTarget&) = delete;

  int fd() const { return fd_.get(); }
  WakePrice& price() const { return *price_; }
  // Any thread; never blocks. False: it cannot be done now, and is tried again.
  virtual bool wake() = 0;

 private:
  UniqueFd fd_;
  friend class Waker;
  const std::shared_ptr<WakePrice> price_;
  std::atomic<bool> asked_{false};
  // The waker's, under its lock.
  std::uint64_t due_ns_ = 0;  // 0: not asked, as far as it has looked
  bool in_use_ = false;
};

class Waker {
 public:
  struct Options {
    unsigned threads = kWakerThreads;
    std::vector<std::uint32_t> cpus_of_workers;  // kept off these, when there are others
    std::function<void()> prepare;               // what each of its threads does first
  };
  explicit Waker(const Options& options);
  ~Waker();  // every target is retired by then
  Waker(const Waker&) = delete;
  Waker& operator=(const Waker&) = delete;

  // --- workers; never waits ---
  void ask(WakeTarget& target);

  // --- control thread ---
  void add(std::shared_ptr<WakeTarget> target);
  // Not woken from now on. One that is being woken at this moment is dropped by a later reap().
  void retire(std::shared_ptr<WakeTarget> target);
  void reap();

  std::uint64_t targets() const;

 private:
  void ring();
  void run(const Options& options);
  // With mutex_ held: the target to wake now, or until when to wait.
  WakeTarget* next(std::uint64_t now, std::uint64_t& wait_until_ns);
  void wake(WakeTarget& target, std::unique_lock<std::mutex>& lock);
  void wait(std::uint64_t until_ns);

  UniqueFd bell_;  // eventfd of ours alone
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<WakeTarget>> targets_, retired_;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace sluice
