// ReturnRing: pages on their way home from other threads. Many producers, one consumer, bounded, no lock.
//
// A producer takes places with one compare-and-swap for the whole batch, then fills them. An entry is a slot
// number with the parity of the lap in its top bit: that bit tells the consumer whether the place was filled
// on this lap, so there is no second index that producers would have to publish in order, and none waits for
// another.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "base/ids.h"

namespace sluice {

inline constexpr std::uint32_t kMaxReturnRing = std::uint32_t{1} << 24;

class ReturnRing {
 public:
  // `capacity` is a power of two, from 2. Slot numbers are page - first, below 2^31.
  ReturnRing(PageIndex first, std::uint32_t capacity);

  // Producers. How many of `pages` fitted, from the front. The last store to the ring is the last page's
  // entry.
  std::uint32_t push(std::span<const PageIndex> pages);

  // The consumer: moves up to `room` pages out, stops at a place that is taken and not filled yet.
  std::uint32_t pop(std::uint32_t* pages, std::uint64_t room);
  // The consumer: nobody took a place that pop() has not emptied.
  bool empty() const { return taken() == head_.load(std::memory_order_relaxed); }

  // The consumer: no producer is between taking a place and filling it, so none will touch the ring again for
  // the pages it took places for.
  bool all_filled() const;

  std::uint32_t capacity() const { return mask_ + 1; }
  std::uint64_t taken() const { return tail_.load(std::memory_order_acquire); }    // places ever taken
  std::uint64_t emptied() const { return head_.load(std::memory_order_acquire); }  // places ever emptied
  std::uint64_t refused() const {
    return refused_.load(std::memory_order_relaxed);
  }  // pages that found it full

 private:
  std::uint32_t lap_bit(std::uint64_t position) const {
    // Lap 0 writes 1, so that the zeroes the ring is born with mean "not filled".
    return ((position >> shift_) & 1) == 0 ? kLap : 0;
  }
  static constexpr std::uint32_t kLap = std::uint32_t{1} << 31;

  const std::uint32_t first_;
  const std::uint32_t mask_;
  const std::uint32_t shift_;
  const std::unique_ptr<std::atomic<std::uint32_t>[]> entries_;
  alignas(64) std::atomic<std::uint64_t> head_{0};  // the consumer's   [label: give back]
  alignas(64) std::atomic<std::uint64_t> tail_{0};  // the producers'
  std::atomic<std::uint64_t> refused_{0};
};

}  // namespace sluice
