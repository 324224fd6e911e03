// Populator: faults the memory of one port's guest in before anybody uses it, so that no worker ever waits
// for a page of it to be found and cleared.
//
// That takes as long as it takes: a second for a few GiB, more where another guest does the same. So it is
// done by a thread of its own, a piece at a time: while a piece is under way, no other thread of the process
// can map or unmap anything.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "port/guest/vhost_user/memory_table.h"

namespace sluice {

class Populator {
 public:
  explicit Populator(EventLoop& loop);
  ~Populator();  // waits for the piece that is under way
  Populator(const Populator&) = delete;
  Populator& operator=(const Populator&) = delete;

  // --- control thread ---
  Result<void> prepare();  // before the first start()
  using Done = std::function<void(Result<void>)>;
  // All regions of `table` that are not populated yet. `done` is called from the loop, never from here,
  // unless cancel() comes first. The table stays mapped until the thread is out of it. One at a time.
  void start(MemoryTable table, Done done);
  void cancel();
  struct Progress {
    bool running = false;
    std::uint64_t bytes = 0;  // done by now
  };
  Progress progress() const;

 private:
  struct Job;
  void launch(Job& job);
  void on_event();

  EventLoop& loop_;
  UniqueFd event_;  // a thread has ended
  // The first one runs; it may be cancelled. Then at most one that waits for its end.
  std::deque<std::unique_ptr<Job>> jobs_;
};

}  // namespace sluice
