// BurstLock: one receive queue, several workers that fill it, one burst at a time. Taken per burst, and only
// when more than one worker can reach the queue; what it guards never waits for anything (D6).
#pragma once

#include <atomic>

#include "base/pause_cpu.h"

namespace sluice {

class BurstLock {
 public:
  void lock() {
    while (held_.exchange(true, std::memory_order_acquire)) {
      while (held_.load(std::memory_order_relaxed)) {
        pause_cpu();
      }
    }
  }
  void unlock() { held_.store(false, std::memory_order_release); }

  // Holds it for a scope, if `needed`.
  class Guard {
   public:
    Guard(BurstLock& lock, bool needed) : lock_(needed ? &lock : nullptr) {
      if (lock_ != nullptr) {
        lock_->lock();
      }
    }
    ~Guard() {
      if (lock_ != nullptr) {
        lock_->unlock();
      }
    }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    BurstLock* lock_;
  };

 private:
  std::atomic<bool> held_{false};
};

}  // namespace sluice
