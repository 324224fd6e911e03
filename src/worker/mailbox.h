// Mailbox: how other threads get something done on a worker's thread. The only thing of a worker that is
// shared.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>

#include "base/fd.h"
#include "base/result.h"
#include "stats/counter.h"

namespace sluice {

class Mailbox {
 public:
  using Task = std::function<void()>;

  static Result<std::unique_ptr<Mailbox>> create();

  // Any other thread: returns when the worker's thread has run `task`. Tasks run in the order of their
  // coming. One that found no memory (std::bad_alloc) throws that here, not on the worker's thread.
  void run(const Task& task);

  // The same in steps, for whoever does not want to wait for ever. The call is its poster's, and lives until
  // wait() or cancel() has said true.
  struct Call {
    Task task;
    bool done = false;
    std::exception_ptr out_of_memory = nullptr;  // how it ended
  };
  void post(Call& call);
  // True: it has run. False: not before `deadline_ns` (now_ns()).
  bool wait(const Call& call, std::uint64_t deadline_ns);
  void wait(const Call& call);
  // True: it has not begun, and never will. False: it has begun, so wait() ends as soon as the task does.
  bool cancel(const Call& call);

  // Any thread: ends the worker's sleep, for something that it finds out by itself.
  void wake();

  // The worker's thread, once per turn: one load.
  bool pending() const { return pending_.load(std::memory_order_acquire); }
  // The worker's thread. At most as many tasks as there were at the beginning (D6).
  void run_pending();
  std::uint64_t count() const { return count_.value(); }  // tasks run
  // Readable when there is a task, or has just been one.
  int wake_fd() const { return wake_.get(); }
  // After a wake-up by wake_fd(), so that it does not wake again for a task that has been run.
  void drain();

 private:
  Mailbox() = default;

  UniqueFd wake_;
  std::mutex mutex_;  // never taken in a turn without a task
  std::condition_variable done_;
  std::deque<Call*> calls_;  // not begun
  std::atomic<bool> pending_{false};
  Counter count_;
};

}  // namespace sluice
