// Mailbox: how other threads get something done on a worker's thread. The only thing of a worker that is
// shared.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "stats/counter.h"

namespace sluice {

class Mailbox {
 public:
  using Task = std::function<void()>;

  static Result<std::unique_ptr<Mailbox>> create();

  // Any other thread: returns when the worker's thread has run `task`. Tasks run in the order of their
  // coming.
  void run(const Task& task);

  // The worker's thread, once per turn: one load.
  bool pending() const { return pending_.load(std::memory_order_acquire); }
  // The worker's thread. As many tasks as there are threads that wait in run(): each waits for its own (D6).
  void run_pending();
  std::uint64_t count() const { return count_.value(); }  // tasks run
  // Readable when there is a task, or has just been one.
  int wake_fd() const { return wake_.get(); }
  // After a wake-up by wake_fd(), so that it does not wake again for a task that has been run.
  void drain();

 private:
  Mailbox() = default;
  struct Call {
    const Task* task;
    bool done = false;
  };

  UniqueFd wake_;
  std::mutex mutex_;  // never taken in a turn without a task
  std::condition_variable done_;
  std::vector<Call*> calls_;
  std::vector<Call*> running_;
  std::atomic<bool> pending_{false};
  Counter count_;
};

}  // namespace sluice
