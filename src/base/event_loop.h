// EventLoop: the control thread's epoll loop. Descriptors, timers, and an end.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "base/fd.h"
#include "base/result.h"

namespace sluice {

// One thread: every call, and every callback, is on the thread that runs run(). Callbacks may add and remove
// anything, themselves included.
class EventLoop {
 public:
  using Callback = std::function<void(std::uint32_t events)>;

  static Result<std::unique_ptr<EventLoop>> create();
  ~EventLoop();

  // `events` as EPOLLIN etc., level-triggered. The descriptor stays the caller's, who removes it before
  // closing it.
  Result<void> add(int fd, std::uint32_t events, Callback callback);
  Result<void> modify(int fd, std::uint32_t events);
  void remove(int fd);

  using TimerId = std::uint64_t;
  // Calls back every `period_ns`, first after `period_ns`, until cancelled.
  TimerId every(std::uint64_t period_ns, std::function<void()> callback);
  TimerId once(std::uint64_t delay_ns, std::function<void()> callback);
  void cancel(TimerId timer);

  // Until stop() is called from a callback.
  void run();
  // One round: waits at most `timeout_ms` (-1: for ever) and calls what is due. For tests.
  void turn(int timeout_ms);
  void stop() { stopped_ = true; }

 private:
  EventLoop() = default;
  struct Watch {
    Callback callback;
    bool removed = false;
  };
  struct Timer {
    TimerId id;
    std::uint64_t period_ns;  // 0: once
    std::function<void()> callback;
  };
  int next_timeout_ms(int at_most_ms) const;
  void run_timers();

  UniqueFd epoll_;
  std::map<int, std::shared_ptr<Watch>> watches_;
  std::multimap<std::uint64_t, Timer> timers_;  // by the time they are due
  TimerId last_timer_ = 0;
  TimerId running_timer_ = 0;
  bool running_cancelled_ = false;
  bool stopped_ = false;
};

}  // namespace sluice
