// What pool_bench measures on each side. The peer stands in a file of its own, with its own compiler flags.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace sluice::bench {

inline constexpr std::uint32_t kPages = 8192;
inline constexpr std::uint32_t kBulk = 64;

// Runs for `pages` pages taken and returned; returns nanoseconds per page.
using Measure = std::function<double(std::uint64_t pages)>;

// The same patterns on each side; a peer that has no such pattern leaves it empty.
struct Side {
  std::string name;
  Measure single;        // take one, return it
  Measure singles;       // take 64 one by one, return them one by one
  Measure bulk;          // take 64 in one call, return them in one call
  Measure other_thread;  // take 64, hand them to another thread, which returns them
};

Side sluice_side();
// DPDK's mbufs and its bare mempool; empty when this was built without DPDK or its EAL does not start.
std::vector<Side> peer_sides(std::string& why_not);

// Stops the compiler from seeing what becomes of `value`, as a packet's journey would.
template <typename T>
inline void opaque(T* value) {
  asm volatile("" : : "r"(value) : "memory");
}

// The same plain single-producer single-consumer ring for both sides: what lies between the threads is not
// compared.
template <typename T, std::uint32_t kSize = 1024>
class Handover {
 public:
  bool push(const T* items, std::uint32_t count) {
    std::uint32_t tail = tail_.load(std::memory_order_relaxed);
    if (kSize - (tail - head_.load(std::memory_order_acquire)) < count) {
      return false;
    }
    for (std::uint32_t i = 0; i < count; ++i) {
      items_[(tail + i) % kSize] = items[i];
    }
    tail_.store(tail + count, std::memory_order_release);
    return true;
  }
  std::uint32_t pop(T* items, std::uint32_t at_most) {
    std::uint32_t head = head_.load(std::memory_order_relaxed);
    std::uint32_t ready = tail_.load(std::memory_order_acquire) - head;
    std::uint32_t count = ready < at_most ? ready : at_most;
    for (std::uint32_t i = 0; i < count; ++i) {
      items[i] = items_[(head + i) % kSize];
    }
    head_.store(head + count, std::memory_order_release);
    return count;
  }

 private:
  alignas(64) std::atomic<std::uint32_t> head_{0};
  alignas(64) std::atomic<std::uint32_t> tail_{0};
  alignas(64) T items_[kSize];
};

}  // namespace sluice::bench
