// EventLoop: the control thread's epoll loop. Descriptors, timers, and an end.
//
// A callback that finds no memory left (std::bad_alloc) ends the session or connection that it works for, not
// the daemon. The loop catches and counts the exception, logs it, and calls the source's own end, which may
// use a reserve kept for that.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "base/fd.h"
#include "base/log_budget.h"
#include "base/result.h"

namespace sluice {

// One thread: every call, and every callback, is on the thread that runs run(). Callbacks may add and remove
// anything, themselves included.
class EventLoop {
 public:
  using Callback = std::function<void(std::uint32_t events)>;

  static Result<std::unique_ptr<EventLoop>> create();
  ~EventLoop();

  // Ends the session or connection of a callback that could not go on. Not called when the callback had
  // removed or cancelled its source before it threw.
  using NoMemory = std::function<void()>;

  // `events` as EPOLLIN etc., level-triggered. The descriptor stays the caller's: remove it before closing
  // it.
  Result<void> add(int fd, std::uint32_t events, Callback callback, NoMemory no_memory = {});
  Result<void> modify(int fd, std::uint32_t events);
  void remove(int fd);

  using TimerId = std::uint64_t;
  // Calls back every `period_ns`, first after `period_ns`, until cancelled.
  TimerId every(std::uint64_t period_ns, std::function<void()> callback);
  TimerId once(std::uint64_t delay_ns, std::function<void()> callback, NoMemory no_memory = {});
  void cancel(TimerId timer);

  // Until stop() is called from a callback.
  void run();
  // One round: waits at most `timeout_ms` (-1: for ever) and calls what is due. For tests.
  void turn(int timeout_ms);
  void stop() { stopped_ = true; }

  std::uint64_t out_of_memory() const { return out_of_memory_; }  // callbacks that ended so

 private:
  EventLoop() = default;
  struct Watch {
    Callback callback;
    NoMemory no_memory;
    bool removed = false;
  };
  struct Timer {
    TimerId id;
    std::uint64_t period_ns;  // 0: once
    std::function<void()> callback;
    NoMemory no_memory;
  };
  template <typename Run>
  void guarded(const Run& run, const NoMemory& no_memory, const bool& gone);
  void fill_reserve();
  int next_timeout_ms(int at_most_ms) const;
  void run_timers();

  UniqueFd epoll_;
  std::map<int, std::shared_ptr<Watch>> watches_;
  std::multimap<std::uint64_t, Timer> timers_;  // by the time they are due
  TimerId last_timer_ = 0;
  TimerId running_timer_ = 0;
  bool running_cancelled_ = false;
  bool stopped_ = false;

  // Small enough that malloc(3) takes them from its heap, and gives them to whoever asks next.
  static constexpr std::size_t kReserves = 8, kReserveBytes = std::size_t{32} << 10;
  std::array<std::unique_ptr<std::byte[]>, kReserves> reserve_;
  std::uint64_t out_of_memory_ = 0;
  LogBudget log_budget_;
};

}  // namespace sluice
