// Counters: one writer, any number of readers, a name for each.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

namespace sluice {

// Written by one thread, read by any. A plain load, add, store: no locked instruction in the data path.
class Counter {
 public:
  void add(std::uint64_t n) {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  void set(std::uint64_t n) { value_.store(n, std::memory_order_relaxed); }
  std::uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

// A component shows its counters by calling the visitor once per counter, always in the same order and with
// the same names (snake_case; drops begin with "drop_", faults of a peer with "fault_").
class CounterVisitor {
 public:
  virtual ~CounterVisitor() = default;
  virtual void counter(std::string_view name, std::uint64_t value) = 0;
  // A level and not a count (inflight, limit, pages_held): it goes down too, and has no rate.
  virtual void gauge(std::string_view name, std::uint64_t value) { counter(name, value); }
};

}  // namespace sluice
