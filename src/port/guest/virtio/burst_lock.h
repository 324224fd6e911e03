// BurstLock: one receive queue, several workers that fill it, one burst at a time. Taken per burst, and only
// when more than one worker can reach the queue.
//
// What it guards touches guest memory: a page fault there, or the host, can keep the holder for long. So who
// waits gives up after a bounded time, and counts what it could not deliver (D6, D8).
#pragma once

#include <atomic>
#include <cstdint>

#include "base/pause_cpu.h"

namespace sluice {

class BurstLock {
 public:
  // Looks of a waiter, each with a pause of the CPU: some 100 us in all, as long as the longest burst takes.
  static constexpr std::uint32_t kMostLooks = 4096;

  [[nodiscard]] bool try_lock() {
    for (std::uint32_t looks = 0; held_.exchange(true, std::memory_order_acquire);) {
      do {
        if (++looks > kMostLooks) {
          return false;
        }
        pause_cpu();
      } while (held_.load(std::memory_order_relaxed));
    }
    return true;
  }
  void unlock() { held_.store(false, std::memory_order_release); }

  // Holds it for a scope, if `needed`. False: somebody else holds it, and for too long.
  class Guard {
   public:
    Guard(BurstLock& lock, bool needed)
        : lock_(needed && lock.try_lock() ? &lock : nullptr), held_(!needed || lock_ != nullptr) {}
    ~Guard() {
      if (lock_ != nullptr) {
        lock_->unlock();
      }
    }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    explicit operator bool() const { return held_; }

   private:
    BurstLock* lock_;
    bool held_;
  };

 private:
  std::atomic<bool> held_{false};
};

}  // namespace sluice
