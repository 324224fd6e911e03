// EventLoop: the control thread's loop. Descriptors, timers, signals, and an end. A wrapper of sd-event(3),
// whose C frames no exception may cross.
//
// A callback that finds no memory left (std::bad_alloc) ends the session or connection that it works for, not
// the daemon. The loop catches and counts the exception, logs it, and calls the source's own end, which may
// use a reserve kept for that.
#pragma once

#include <systemd/sd-event.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

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
  // it. Throws std::bad_alloc, as every call that makes a source does.
  Result<void> add(int fd, std::uint32_t events, Callback callback, NoMemory no_memory = {});
  Result<void> modify(int fd, std::uint32_t events);
  // Nothing of it is told until modify(), not even that it hung up.
  void silence(int fd);
  void remove(int fd);
  // A signal that is blocked in all threads; for the life of the loop.
  Result<void> add_signal(int signal, std::function<void()> callback);

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
  struct SourceEnd {
    void operator()(sd_event_source* source) const { sd_event_source_disable_unref(source); }
  };
  struct EventEnd {
    void operator()(sd_event* event) const { sd_event_unref(event); }
  };
  using Handle = std::unique_ptr<sd_event_source, SourceEnd>;
  // Held by whoever runs it, too: a callback may remove its own.
  struct Source {
    EventLoop* loop;
    Callback callback;  // of timers and signals: without events
    NoMemory no_memory;
    std::uint64_t period_ns = 0;  // timers; 0: once
    TimerId timer = 0;
    std::uint64_t turn = 0;  // in which it was called last
    bool removed = false;
    Handle handle;
  };
  TimerId add_timer(std::uint64_t delay_ns, std::uint64_t period_ns, std::function<void()> callback,
                    NoMemory no_memory);
  static int on_descriptor(sd_event_source*, int, std::uint32_t events, void* source) noexcept;
  static int on_timer(sd_event_source*, std::uint64_t, void* source) noexcept;
  static int on_signal(sd_event_source*, const signalfd_siginfo*, void* source) noexcept;
  void call(Source& source, std::uint32_t events);
  bool dispatch(std::uint64_t timeout_us);
  void fill_reserve();

  std::unique_ptr<sd_event, EventEnd> event_;
  std::map<int, std::shared_ptr<Source>> watches_;
  std::map<TimerId, std::shared_ptr<Source>> timers_;
  std::vector<std::shared_ptr<Source>> signals_;
  TimerId last_timer_ = 0;
  std::uint64_t turns_ = 0;
  bool turn_is_over_ = false;
  bool stopped_ = false;

  // Small enough that malloc(3) takes them from its heap, and gives them to whoever asks next.
  static constexpr std::size_t kReserves = 8, kReserveBytes = std::size_t{32} << 10;
  std::array<std::unique_ptr<std::byte[]>, kReserves> reserve_;
  std::uint64_t out_of_memory_ = 0;
  LogBudget log_budget_;
};

}  // namespace sluice
