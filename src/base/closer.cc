#include "base/closer.h"
#include "base/signals_blocked.h"

#include <pthread.h>
#include <unistd.h>

#include <utility>

namespace sluice {

Closer& Closer::of_process() {
  static Closer closer;
  return closer;
}

Closer::~Closer() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) {
    thread_.join();
  }
}

void Closer::run(std::function<void()> job) {
  if (threadless_) {
    job();
    return;
  }
  {
    std::lock_guard lock(mutex_);
    if (!thread_.joinable()) {
      SignalsBlocked block;
      thread_ = std::thread([this] { work(); });
    }
    if (jobs_.size() < kMostWaiting) {
      jobs_.push_back(std::move(job));
      changed_.notify_all();
      return;
    }
    overflowed_.fetch_add(1, std::memory_order_relaxed);
  }
  job();
}

void Closer::close(int fd) {
  run([fd] { ::close(fd); });
}

void Closer::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return jobs_.empty() && !busy_; });
}

std::size_t Closer::waiting() const {
  std::lock_guard lock(mutex_);
  return jobs_.size() + (busy_ ? 1 : 0);
}

void Closer::work() {
  ::pthread_setname_np(::pthread_self(), "sluice-closer");
  if (prepare_) {
    prepare_();
  }
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return !jobs_.empty() || ending_; });
    if (jobs_.empty()) {
      return;
    }
    std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    busy_ = true;
    lock.unlock();
    job();
    job = nullptr;  // what it holds goes here, without the lock
    lock.lock();
    busy_ = false;
    done_.fetch_add(1, std::memory_order_relaxed);
    changed_.notify_all();
  }
}

}  // namespace sluice
