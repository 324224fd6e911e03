// A bounded ring between one producing and one consuming thread, for the fakes. Indices are sequentially
// consistent, so that "ask to be woken, then look again" holds without a separate fence (which
// ThreadSanitizer cannot follow).
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

namespace sluice {

template <typename Entry>
class FakeRing {
 public:
  explicit FakeRing(std::uint32_t size) : entries_(size) {}

  // Producer: the next free entry, or null when the ring is full; publish() makes it the consumer's.
  Entry* reserve() {
    return tail_.load() - head_.load() == entries_.size() ? nullptr : &entries_[tail_ % entries_.size()];
  }
  void publish() { tail_.fetch_add(1); }

  // Consumer: the i-th unread entry, i < size(); pop() gives the first `count` back.
  std::uint32_t size() const { return static_cast<std::uint32_t>(tail_.load() - head_.load()); }
  Entry& at(std::uint32_t i) { return entries_[(head_ + i) % entries_.size()]; }
  void pop(std::uint32_t count = 1) { head_.fetch_add(count); }

 private:
  std::vector<Entry> entries_;
  std::atomic<std::uint64_t> head_{0}, tail_{0};
};

}  // namespace sluice
