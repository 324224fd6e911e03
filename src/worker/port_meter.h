// PortMeter: what each port costs one worker, where the worker is now, and which ports it serves less often.
//
//   enter(port)   the worker begins to work for this port; what passed since the last enter() was the one
//                 before's
//   a call of more than kSlowCallNs: its port is a suspect for kSuspectNs, and its calls are looked at
//   closely a suspect's slow call: charged to it, as far as the thread was blocked in it (page faults that
//   wait) or
//                 used the CPU; a thread that the hypervisor or another thread kept from running is nobody's
//                 fault
//
// Written by the worker's thread; read by any. set_divider() is the control thread's.
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
// How long after a slow call each call of the port is looked at, at the price of two system calls.
inline constexpr std::uint64_t kSuspectNs = 10'000'000'000;

class PortMeter {
 public:
  // Places that are no port's.
  static constexpr std::uint16_t kOwn = kMaxPorts;          // NIC queues, calls of the control thread
  static constexpr std::uint16_t kResting = kMaxPorts + 1;  // nap or sleep
  static constexpr std::size_t kPlaces = kMaxPorts + 2;

  PortMeter() : slow_ticks_(static_cast<std::uint64_t>(ticks_per_ns() * static_cast<double>(kSlowCallNs))) {
    divider_.fill(1);
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
      look_closely();
    }
  }
  void enter(PortId port) { enter(raw(port) < kMaxPorts ? raw(port) : kOwn); }

  // At the beginning of each turn: do some ports have to wait this time?
  bool begin_turn(std::uint64_t turn) {
    turn_ = turn;
    throttling_ = throttled_.load(std::memory_order_relaxed) != 0;
    return throttling_;
  }
  bool throttling() const { return throttling_; }
  bool skips(PortId port) const {
    if (!throttling_ || raw(port) >= kMaxPorts) {
      return false;
    }
    const std::uint32_t divider = divider_slot(port).load(std::memory_order_relaxed);
    return divider > 1 && turn_ % divider != 0;
  }
  void count_skipped_turn(PortId port) { skipped_[raw(port)].add(1); }
  void count_dropped(PortId port, std::uint64_t packets) { dropped_[raw(port)].add(packets); }

  // --- control thread ---
  // 1: every turn; k: every k-th.
  void set_divider(PortId port, std::uint32_t divider) {
    auto slot = divider_slot(port);
    const std::uint32_t before = slot.exchange(divider, std::memory_order_relaxed);
    throttled_.fetch_add((divider > 1 ? 1 : 0) - (before > 1 ? 1 : 0), std::memory_order_relaxed);
  }
  // A port's number begins a new life.
  void forget(PortId port) { set_divider(port, 1); }

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
  void suspect(std::uint16_t port, std::uint64_t now);
  void look_closely();
  std::atomic_ref<std::uint32_t> divider_slot(PortId port) const {
    return std::atomic_ref<std::uint32_t>(divider_[raw(port)]);
  }

  const std::uint64_t slow_ticks_;
  std::uint64_t since_ = 0;
  std::uint16_t place_ = kOwn, from_ = kOwn;
  std::atomic<std::uint16_t> published_{kOwn};
  std::uint64_t turn_ = 0;
  bool throttling_ = false;
  std::atomic<std::int32_t> throttled_{0};
  mutable std::array<std::uint32_t, kMaxPorts> divider_;

  ThreadUsage before_;   // at the beginning of a suspect's call
  bool looked_ = false;  // before_ is of the present call
  std::uint32_t suspects_ = 0;
  std::array<std::uint64_t, kMaxPorts> suspect_until_;  // 0: none

  std::array<Counter, kPlaces> busy_;  // ticks
  std::array<Counter, kMaxPorts> charged_us_, slow_calls_, skipped_, dropped_;
};

}  // namespace sluice
