// Closer: a thread that drops objects whose end takes long. The last reference to a guest's memory frees all
// of it, page by page: seconds for a large guest, which no other thread can spare (D8).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace sluice {

class Closer {
 public:
  // Most jobs that wait (D6): more than all guests together can have regions. One more is counted, and the
  // caller's own thread does it.
  static constexpr std::size_t kMostWaiting = 16'384;

  // The one of this process, started when it is first needed. Ends with the process, after all its jobs.
  static Closer& of_process();

  Closer() = default;
  ~Closer();
  Closer(const Closer&) = delete;
  Closer& operator=(const Closer&) = delete;

  // From here on the caller's own thread does each job: for a process that may wait, and may make no thread.
  void work_without_thread() { threadless_ = true; }
  // Its thread runs this once, before the first job.
  void begin_with(std::function<void()> prepare) { prepare_ = std::move(prepare); }

  // Any thread but a worker's; never waits for the job. `job` drops references and nothing else.
  void run(std::function<void()> job);
  void close(int fd);
  // Returns when all jobs that were brought before are done: for tests, and to have the memory back.
  void drain();

  std::size_t waiting() const;
  std::uint64_t done() const { return done_.load(std::memory_order_relaxed); }
  std::uint64_t overflowed() const { return overflowed_.load(std::memory_order_relaxed); }

 private:
  void work();

  std::function<void()> prepare_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool busy_ = false, ending_ = false, threadless_ = false;
  std::atomic<std::uint64_t> done_{0}, overflowed_{0};
  std::thread thread_;
};

}  // namespace sluice
