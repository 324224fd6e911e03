// PortMeter: what each port costs one worker, where the worker is now, and which ports have used up what they
// may cost.
//
//   enter(port)   the worker begins to work for this port; what passed since the last enter() was the one
//                 before's
//   a call of more than kSlowCallNs: its port is a suspect for kSuspectNs, and its calls are looked at closely
//   a suspect's slow call: charged to it, as far as the thread was blocked in it (page faults that wait) or
//   used the CPU; a thread that the hypervisor or another thread kept from running is nobody's fault
//   over its budget: from the next turn on the port is not served, until begin_window()
//
// Written by the worker's thread; read by any. begin_window() is the control thread's.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/ids.h"
#include "base/thread_usage.h"
#include "base/ticks.h"
#include "stats/counter.h"

namespace sluice {

// A full burst of the longest frames is copied in a quarter of this.
inline constexpr std::uint64_t kSlowCallNs = 200'000;
// Asking the kernel for the thread's usage costs as much as several turns with nothing to do. What it said
// holds for so long, while each call since was so short that the thread cannot have been blocked in it.
inline constexpr std::uint64_t kUsageFreshNs = 50'000;
inline constexpr std::uint64_t kShortCallNs = 1'000;
// How long after a slow call each call of the port is looked at, at the price of two system calls: at least
// so long, and so many times what the call took. Who is slow again later than that is slow for a small part
// of the time.
inline constexpr std::uint64_t kSuspectNs = 10'000'000'000;
inline constexpr std::uint64_t kSuspectTimes = 500;

class PortMeter {
 public:
  // Places that are no port's.
  static constexpr std::uint16_t kOwn = kMaxPorts;          // NIC queues, calls of the control thread
  static constexpr std::uint16_t kResting = kMaxPorts + 1;  // nap or sleep
  static constexpr std::size_t kPlaces = kMaxPorts + 2;

  PortMeter() : slow_ticks_(static_cast<std::uint64_t>(ticks_per_ns() * static_cast<double>(kSlowCallNs))) {
    suspect_until_.fill(0);
    since_ = now_ticks();
  }

  // `from`: whose memory is read as well, when that is another peer's.
  void enter(std::uint16_t place, std::uint16_t from = kOwn) {
    const std::uint64_t now = now_ticks();
    const std::uint64_t passed = now - since_;
    busy_[place_].add(passed);
    since_ = now;
    if (passed > slow_ticks_ && place_ != kResting) [[unlikely]] {
      end_slow_call(passed);
    }
    place_ = place;
    from_ = from;
    published_.store(place, std::memory_order_relaxed);
    if (suspects_ != 0) [[unlikely]] {
      look_closely(now, passed);
    }
  }
  std::uint64_t looks() const { return looks_; }  // how often the kernel was asked for the thread's usage
  std::uint64_t since() const { return since_; }  // when the present place was entered, in ticks
  void enter(PortId port) { enter(raw(port) < kMaxPorts ? raw(port) : kOwn); }

  // At the beginning of each turn: true when other ports are served than in the turn before.
  bool begin_turn() {
    const std::uint32_t serial = serial_.load(std::memory_order_acquire);
    if (serial == seen_) [[likely]] {
      return false;
    }
    seen_ = serial;
    look_who_is_closed();
    return true;
  }
  // Not served in this turn.
  bool skips(PortId port) const { return any_closed_ && raw(port) < kMaxPorts && closed_[raw(port)]; }
  void count_skipped_turn(PortId port) { skipped_[raw(port)].add(1); }
  void count_dropped(PortId port, std::uint64_t packets) { dropped_[raw(port)].add(packets); }

  // --- control thread ---
  // From now on the port may cost so much until the next window; 0: no limit. True: it was not served any
  // more, and is from the worker's next turn on.
  bool begin_window(PortId port, std::uint64_t budget_us) {
    budget_us_[raw(port)].store(budget_us, std::memory_order_relaxed);
    used_us_[raw(port)].store(0, std::memory_order_relaxed);
    if (!over_[raw(port)].exchange(false, std::memory_order_relaxed)) {
      return false;
    }
    serial_.fetch_add(1, std::memory_order_release);
    return true;
  }

  // --- any thread ---
  std::uint16_t place() const { return published_.load(std::memory_order_relaxed); }
  std::uint64_t busy_us(PortId port) const {
    return static_cast<std::uint64_t>(static_cast<double>(busy_[raw(port)].value()) / ticks_per_ns() / 1000);
  }
  std::uint64_t charged_us(PortId port) const { return charged_us_[raw(port)].value(); }
  std::uint64_t slow_calls(PortId port) const { return slow_calls_[raw(port)].value(); }
  std::uint64_t skipped(PortId port) const { return skipped_[raw(port)].value(); }
  std::uint64_t dropped(PortId port) const { return dropped_[raw(port)].value(); }

 private:
  void end_slow_call(std::uint64_t ticks);
  void suspect(std::uint16_t port, std::uint64_t until);
  void look_closely(std::uint64_t now, std::uint64_t passed);
  void charge(std::uint16_t port, std::uint64_t us);
  void look_who_is_closed();

  const std::uint64_t slow_ticks_;
  std::uint64_t since_ = 0;
  std::uint16_t place_ = kOwn, from_ = kOwn;
  std::atomic<std::uint16_t> published_{kOwn};
  // As of the beginning of this turn; the same for all of it.
  bool any_closed_ = false;
  std::uint32_t seen_ = 0;
  std::array<bool, kMaxPorts> closed_{};
  std::atomic<std::uint32_t> serial_{0};  // of what stands in over_
  std::array<std::atomic<bool>, kMaxPorts> over_{};
  std::array<std::atomic<std::uint64_t>, kMaxPorts> budget_us_{}, used_us_{};  // of the present window

  ThreadUsage before_;  // at the beginning of a suspect's call, or of a short one just before
  bool fresh_ = false;  // all calls since before_ were short, and it is not old
  std::uint64_t before_ticks_ = 0, looks_ = 0;
  bool looked_ = false;  // before_ is of the present call
  std::uint32_t suspects_ = 0;
  std::array<std::uint64_t, kMaxPorts> suspect_until_;  // 0: none

  std::array<Counter, kPlaces> busy_;  // ticks
  std::array<Counter, kMaxPorts> charged_us_, slow_calls_, skipped_, dropped_;
};

}  // namespace sluice
