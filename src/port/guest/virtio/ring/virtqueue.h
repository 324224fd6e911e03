// Virtqueue: one queue of a guest for as long as its device lives: a ring of either format while it is
// started, and what does not change with the ring.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <variant>

#include "base/fd.h"
#include "port/guest/virtio/burst_lock.h"
#include "port/guest/virtio/ring/guest_buffer.h"
#include "port/guest/virtio/ring/packed_ring.h"
#include "port/guest/virtio/ring/split_ring.h"
#include "port/guest/virtio/ring/vring.h"
#include "port/waker.h"

namespace sluice {

// What it costs to call one port's guest, and by what it is called. Workers and waker threads.
class CallPrice : public WakePrice {
 public:
  void called_by_aio() {
    if (by_write_now_.load(std::memory_order_relaxed)) [[unlikely]] {
      by_write_now_.store(false, std::memory_order_relaxed);
    }
  }
  void called_by_write(bool it_waited) {
    by_write_.fetch_add(1, std::memory_order_relaxed);
    waited_.fetch_add(it_waited ? 1 : 0, std::memory_order_relaxed);
    by_write_now_.store(true, std::memory_order_relaxed);
  }

  // --- any thread ---
  // The last call was a write(2): whoever made it had no AIO context.
  bool by_write() const { return by_write_now_.load(std::memory_order_relaxed); }
  void visit(CounterVisitor& visitor) const;  // WakePrice's, calls_by_write, fault_call_waits

 private:
  std::atomic<bool> by_write_now_{false};
  std::atomic<std::uint64_t> by_write_{0}, waited_{0};
};

// Interrupts the guest by an eventfd that its front-end has sent.
class GuestCall final : public WakeTarget {
 public:
  GuestCall(UniqueFd fd, std::shared_ptr<CallPrice> price)
      : WakeTarget(std::move(fd), price), price_(std::move(price)) {}
  bool wake() override;

 private:
  bool wake_by_write();

  const std::shared_ptr<CallPrice> price_;
  bool waits_ = false;  // waker threads, one at a time: a write to it would wait
};

class Virtqueue {
 public:
  // What it costs to call the guest, and who does it when that is much; none: the lanes themselves.
  explicit Virtqueue(std::uint32_t index, Waker* waker = nullptr,
                     std::shared_ptr<CallPrice> price = std::make_shared<CallPrice>())
      : index_(index),
        direction_(index % 2 == 0 ? Direction::kToGuest : Direction::kFromGuest),
        waker_(waker),
        price_(std::move(price)) {}
  ~Virtqueue() { drop_call(); }

  // --- control thread, while no worker is in a lane ---
  void start(const VringSetup& setup, const GuestMemory& memory);
  void enable(bool enabled) { enabled_.store(enabled, std::memory_order_relaxed); }
  VringBase stop();
  // Duplicates, so that it does not matter when the control half closes its own. -1: none; kNotAnEventfd is
  // counted.
  void set_kick_fd(int fd);
  void set_call_fd(int fd);
  void set_watched(bool watched) { watched_ = watched; }
  void set_shared(bool shared) { shared_ = shared; }

  // --- the worker that serves it ---
  // visit(SplitRing&) or visit(PackedRing&); only while it is started.
  template <typename Visit>
  decltype(auto) with_ring(Visit&& visit) {
    if (auto* split = std::get_if<SplitRing>(&ring_)) {
      return visit(*split);
    }
    return visit(std::get<PackedRing>(ring_));
  }
  // Set by who served it: broken() is for any thread.
  void note_broken() { broken_.store(true, std::memory_order_relaxed); }

  std::uint32_t index() const { return index_; }
  Direction direction() const { return direction_; }
  bool started() const { return started_.load(std::memory_order_relaxed); }
  bool enabled() const { return enabled_.load(std::memory_order_relaxed); }
  bool broken() const { return broken_.load(std::memory_order_relaxed); }
  // Its guest's memory has been taken away: nothing there is worth another page. The session ends soon.
  bool memory_lost() const { return lost_ != nullptr && lost_->load(std::memory_order_relaxed); }
  bool running() const { return started() && enabled(); }
  std::uint32_t header_bytes() const { return header_bytes_; }
  bool mergeable() const { return mergeable_; }
  bool shared() const { return shared_; }
  BurstLock& lock() { return lock_; }
  int kick_fd() const { return kick_.get(); }
  GuestCall* call() const { return call_.get(); }  // null: none
  bool watched() const { return watched_; }
  RingCounters& counters() { return counters_; }
  const RingCounters& counters() const { return counters_; }

 private:
  void drop_call();

  const std::uint32_t index_;
  const Direction direction_;
  Waker* const waker_;
  const std::shared_ptr<CallPrice> price_;
  bool mergeable_ = false;
  bool shared_ = false;   // more than one worker can reach it
  bool watched_ = false;  // a kick wakes its worker
  std::uint32_t header_bytes_ = 0;
  const std::atomic<bool>* lost_ = nullptr;  // of the memory it runs in
  std::variant<std::monostate, SplitRing, PackedRing> ring_;
  BurstLock lock_;
  std::atomic<bool> started_{false}, enabled_{false}, broken_{false};
  UniqueFd kick_;
  std::shared_ptr<GuestCall> call_;
  VringBase stopped_at_;
  RingCounters counters_;
};

}  // namespace sluice
