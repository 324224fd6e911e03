// Our side of a ring of abi/ring.h, with the verbs of AF_XDP: reserve / submit, peek / release.
//
// Each class lives in private memory and keeps its own indices there (D3); in shared memory it only publishes
// them. The peer's index is clamped to what is possible and counted when it is not. One thread per side.
//
// What is possible is narrower than "0 .. size apart": an index never goes back either, so a peer can only
// ever confirm what was published and not yet confirmed. An impossible index changes nothing: the last good
// value stays.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <type_traits>

#include "abi/ring.h"
#include "base/untrusted.h"

namespace sluice {

template <typename Entry>
class RingProducer {
  static_assert(std::is_trivially_copyable_v<Entry>);

 public:
  RingProducer() = default;
  // `size` is a power of two, from our own memory. All pointers stay valid as long as the ring is used.
  RingProducer(sluice_ring_producer* own, Entry* entries, const sluice_ring_consumer* peer,
               std::uint32_t size)
      : own_(own), entries_(entries), peer_(peer), mask_(size - 1) {}

  // How many entries may be written now, at most `wanted`. Reads the peer's index only when its last known
  // value does not suffice.
  std::uint32_t reserve(std::uint32_t wanted) {
    std::uint32_t free = size() - (produced_ - consumed_);
    if (free < wanted) {
      refresh();
      free = size() - (produced_ - consumed_);
    }
    return std::min(free, wanted);
  }

  // The i-th reserved entry, i < what reserve() returned.
  Entry& entry(std::uint32_t i) { return entries_[(produced_ + i) & mask_]; }

  // Publishes the first `count` reserved entries.   [label: publish]
  void submit(std::uint32_t count) {
    produced_ += count;
    write_once(own_->producer, produced_, std::memory_order_release);
  }

  // After submit: does the peer want a kick?        [label: sleep]
  bool peer_needs_wakeup() const {
    // Our index must be visible before the flag is read; a release store alone may pass a later load.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return read_once(peer_->need_wakeup) != 0;
  }

  std::uint32_t produced() const { return produced_; }  // free-running index
  // produced and not consumed yet, 0 .. size
  std::uint32_t in_ring() {
    refresh();
    return produced_ - consumed_;
  }
  std::uint64_t faults() const { return faults_; }  // how often the peer's index was impossible
  std::uint32_t size() const { return mask_ + 1; }

 private:
  void refresh() {  // [label: give back]
    std::uint32_t consumer = read_once(peer_->consumer, std::memory_order_acquire);
    if (consumer - consumed_ > produced_ - consumed_) [[unlikely]] {
      ++faults_;
      return;
    }
    consumed_ = consumer;
  }

  sluice_ring_producer* own_ = nullptr;
  Entry* entries_ = nullptr;
  const sluice_ring_consumer* peer_ = nullptr;
  std::uint32_t mask_ = 0;
  std::uint32_t produced_ = 0;
  std::uint32_t consumed_ = 0;  // the peer's index, as last believed
  std::uint64_t faults_ = 0;
};

template <typename Entry>
class RingConsumer {
  static_assert(std::is_trivially_copyable_v<Entry>);

 public:
  RingConsumer() = default;
  RingConsumer(sluice_ring_consumer* own, const Entry* entries, const sluice_ring_producer* peer,
               std::uint32_t size)
      : own_(own), entries_(entries), peer_(peer), mask_(size - 1) {}

  // How many entries can be read now, at most `wanted`. Reads the peer's index only when its last known value
  // does not suffice.   [label: publish]
  std::uint32_t peek(std::uint32_t wanted) {
    if (produced_ - consumed_ < wanted) {
      refresh();
    }
    return std::min(produced_ - consumed_, wanted);
  }

  // A private copy of the i-th peeked entry, made once (D3).
  Entry read(std::uint32_t i) const { return copy_once(entries_[(consumed_ + i) & mask_]); }

  // Gives the first `count` peeked entries back to the producer.   [label: give back]
  void release(std::uint32_t count) {
    consumed_ += count;
    write_once(own_->consumer, consumed_, std::memory_order_release);
  }

  // Before sleeping: ask for a kick, then look again; true when there is work after all (and no kick is asked
  // for). An impossible index is no work: a peer that writes garbage does not keep us awake.
  bool prepare_sleep() {  // [label: sleep]
    write_once(own_->need_wakeup, std::uint32_t{1});
    std::atomic_thread_fence(std::memory_order_seq_cst);
    refresh();
    if (produced_ == consumed_) {
      return false;
    }
    cancel_sleep();
    return true;
  }

  void cancel_sleep() { write_once(own_->need_wakeup, std::uint32_t{0}); }

  std::uint32_t consumed() const { return consumed_; }
  std::uint64_t faults() const { return faults_; }
  std::uint32_t size() const { return mask_ + 1; }

 private:
  void refresh() {
    std::uint32_t producer = read_once(peer_->producer, std::memory_order_acquire);
    std::uint32_t ahead = producer - consumed_;
    if (ahead > size() || ahead < produced_ - consumed_) [[unlikely]] {
      ++faults_;
      return;
    }
    produced_ = producer;
  }

  sluice_ring_consumer* own_ = nullptr;
  const Entry* entries_ = nullptr;
  const sluice_ring_producer* peer_ = nullptr;
  std::uint32_t mask_ = 0;
  std::uint32_t consumed_ = 0;
  std::uint32_t produced_ = 0;  // the peer's index, as last believed
  std::uint64_t faults_ = 0;
};

}  // namespace sluice
