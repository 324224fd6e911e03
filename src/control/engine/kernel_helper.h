// KernelHelper: threads that make the system calls which neither control nor a worker may wait for.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace sluice {

// Control thread, but for the calls themselves.
class KernelHelper {
 public:
  // Each has at most one call under way, and calls never wait for each other here: who has more to do asks
  // has_room() first (D6).
  static constexpr std::size_t kMostThreads = 8;

  static Result<std::unique_ptr<KernelHelper>> create();
  // Threads that are inside the kernel are left there: they end with the process.
  ~KernelHelper();

  bool has_room() const { return under_way_ < kMostThreads; }
  std::size_t under_way() const { return under_way_; }
  // `call` runs on a thread of its own kind (ThreadKind::kNicHelper), `done` with its result in take_done().
  // The first thread is made at once, others when they are needed.
  void run(std::function<int()> call, std::function<void(int)> done);
  // One that throws is done with; those behind it come next time, which is at once.
  void take_done();
  void wake();                                         // so that wake_fd() is readable
  int wake_fd() const { return shared_->wake.get(); }  // readable: take_done() may have something to do

 private:
  struct Job {
    std::function<int()> call;
    std::function<void(int)> done;
    int result = 0;
  };
  struct Shared {
    UniqueFd wake;  // eventfd
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::unique_ptr<Job>> waiting, finished;
    std::size_t idle = 0;
    bool ending = false, left_behind = false;
  };
  KernelHelper() : shared_(std::make_shared<Shared>()) {}
  bool add_thread();
  static void work(const std::shared_ptr<Shared>& shared);

  std::shared_ptr<Shared> shared_;
  std::vector<std::thread> threads_;
  std::size_t under_way_ = 0;
};

}  // namespace sluice
