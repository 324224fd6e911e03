#include "memory/return_ring.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace sluice {

ReturnRing::ReturnRing(PageIndex first, std::uint32_t capacity)
    : first_(raw(first)),
      mask_(capacity - 1),
      shift_(static_cast<std::uint32_t>(std::countr_zero(capacity))),
      entries_(std::make_unique<std::atomic<std::uint32_t>[]>(capacity)) {
  SLUICE_CHECK(std::has_single_bit(capacity) && capacity >= 2, "capacity {}", capacity);
}

std::uint32_t ReturnRing::push(std::span<const PageIndex> pages) {
  const std::uint64_t capacity = mask_ + std::uint64_t{1};
  std::uint64_t head = head_.load(std::memory_order_acquire);  // [label: give back]
  std::uint64_t tail = tail_.load(std::memory_order_relaxed);
  std::uint64_t count = 0;
  // Lock-free: a turn is repeated only because another thread got on (the consumer, or a producer's swap).
  for (;;) {
    std::uint64_t filled = tail - head;  // head is the older value: this may be too much, never too little
    count = filled < capacity ? std::min<std::uint64_t>(pages.size(), capacity - filled) : 0;
    if (count < pages.size()) {
      std::uint64_t head_now = head_.load(std::memory_order_acquire);
      if (head_now != head) {
        head = head_now;
        tail = tail_.load(std::memory_order_relaxed);
        continue;
      }
    }
    // acq_rel: whoever sees the page counted as released also sees what this thread did before.
    if (count == 0 || tail_.compare_exchange_weak(tail, tail + count, std::memory_order_acq_rel,
                                                  std::memory_order_relaxed)) {
      break;
    }
  }
  if (count < pages.size()) {
    // Those pages are still the caller's and so in flight: the pool cannot have gone.
    refused_.fetch_add(pages.size() - count, std::memory_order_relaxed);
  }
  for (std::uint64_t i = 0; i < count; ++i) {
    std::uint64_t position = tail + i;
    entries_[position & mask_].store((raw(pages[i]) - first_) | lap_bit(position),
                                     std::memory_order_release);  // [label: page home]
  }
  return static_cast<std::uint32_t>(count);
}

std::uint32_t ReturnRing::pop(std::uint32_t* pages, std::uint64_t room) {
  std::uint64_t head = head_.load(std::memory_order_relaxed);
  std::uint64_t end = head + std::min(tail_.load(std::memory_order_acquire) - head, room);
  std::uint32_t count = 0;
  for (; head != end; ++head, ++count) {
    std::uint32_t entry = entries_[head & mask_].load(std::memory_order_acquire);  // [label: page home]
    if ((entry & kLap) != lap_bit(head)) {
      break;
    }
    pages[count] = first_ + (entry & ~kLap);
  }
  if (count != 0) {
    head_.store(head, std::memory_order_release);  // [label: give back]
  }
  return count;
}

bool ReturnRing::all_filled() const {
  std::uint64_t tail = taken();
  for (std::uint64_t position = emptied(); position != tail; ++position) {
    if ((entries_[position & mask_].load(std::memory_order_acquire) & kLap) != lap_bit(position)) {
      return false;
    }
  }
  return true;
}

}  // namespace sluice
