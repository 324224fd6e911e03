// OffLoop: work that the control thread may not wait for, because its length is a peer's or the memory's to
// say. One piece at a time, on a thread of its own that ends with it.
#pragma once

#include <functional>
#include <thread>

#include "base/event_loop.h"
#include "base/fd.h"

namespace sluice {

// Control thread.
class OffLoop {
 public:
  explicit OffLoop(EventLoop& loop) : loop_(loop) {}
  // What is under way is abandoned: `done` is not called. Does not wait for it.
  ~OffLoop();
  OffLoop(const OffLoop&) = delete;
  OffLoop& operator=(const OffLoop&) = delete;

  bool busy() const { return thread_.joinable(); }
  // `work` on the other thread (ThreadKind::kMaker), then `done` on this one, by way of the loop. `work` owns
  // what it touches, for it may outlive the port. Where no thread can be had, both are called here.
  void run(std::function<void()> work, std::function<void()> done);

 private:
  bool start(std::function<void()> work);
  void finish();

  EventLoop& loop_;
  UniqueFd wake_;  // eventfd: the work is done
  std::function<void()> done_;
  std::thread thread_;
};

}  // namespace sluice
