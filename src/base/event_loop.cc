#include "base/event_loop.h"

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <exception>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"

namespace sluice {

namespace {

// In one turn, before it is asked whether the loop is to stop.
constexpr int kCallsPerTurn = 64;
// sd-event may let a timer be late for so long, to wake up less often. 0 would mean 250 ms.
constexpr std::uint64_t kTimerAccuracyUs = 1;

constexpr std::uint64_t us_until(std::uint64_t delay_ns) {
  return delay_ns / 1000 + (delay_ns % 1000 != 0 ? 1 : 0);
}

// Sources are made by code that throws where it finds no memory.
int or_throw(int result) {
  if (result == -ENOMEM) {
    throw std::bad_alloc();  // lint: allow(throw) as operator new would
  }
  return result;
}

}  // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  std::unique_ptr<EventLoop> loop(new EventLoop);
  sd_event* event = nullptr;
  if (const int made = or_throw(sd_event_new(&event)); made < 0) {
    return fail_errno(-made, "cannot make an event loop");
  }
  loop->event_.reset(event);
  // Its timer descriptor is made now, and not when descriptors have run out.
  sd_event_source* timer = nullptr;
  if (const int made = or_throw(
          sd_event_add_time(event, &timer, CLOCK_MONOTONIC, UINT64_MAX, kTimerAccuracyUs, nullptr, nullptr));
      made < 0) {
    return fail_errno(-made, "cannot make a timer");
  }
  sd_event_source_disable_unref(timer);
  loop->fill_reserve();
  return loop;
}

EventLoop::~EventLoop() = default;

Result<void> EventLoop::add(int fd, std::uint32_t events, Callback callback, NoMemory no_memory) {
  const auto [at, is_new] = watches_.try_emplace(fd);
  if (!is_new) {
    return fail_errno(EEXIST, "cannot watch descriptor {}", fd);
  }
  int made = 0;
  try {
    at->second = std::make_shared<Source>(
        Source{.loop = this, .callback = std::move(callback), .no_memory = std::move(no_memory)});
    sd_event_source* handle = nullptr;
    made = or_throw(sd_event_add_io(event_.get(), &handle, fd, events, on_descriptor, at->second.get()));
    at->second->handle.reset(handle);
  } catch (const std::bad_alloc&) {
    watches_.erase(at);
    std::rethrow_exception(std::current_exception());
  }
  if (made < 0) {
    watches_.erase(at);
    return fail_errno(-made, "cannot watch descriptor {}", fd);
  }
  return {};
}

Result<void> EventLoop::modify(int fd, std::uint32_t events) {
  const auto found = watches_.find(fd);
  int done = -ENOENT;
  if (found != watches_.end()) {
    sd_event_source* handle = found->second->handle.get();
    done = sd_event_source_set_io_events(handle, events);
    if (done >= 0) {
      done = sd_event_source_set_enabled(handle, SD_EVENT_ON);
    }
  }
  if (done < 0) {
    return fail_errno(-done, "cannot change the watch on descriptor {}", fd);
  }
  return {};
}

void EventLoop::silence(int fd) {
  if (const auto found = watches_.find(fd); found != watches_.end()) {
    sd_event_source_set_enabled(found->second->handle.get(), SD_EVENT_OFF);
  }
}

void EventLoop::remove(int fd) {
  const auto found = watches_.find(fd);
  if (found == watches_.end()) {
    return;
  }
  found->second->removed = true;
  found->second->handle.reset();
  watches_.erase(found);
}

Result<void> EventLoop::add_signal(int signal, std::function<void()> callback) {
  auto source = std::make_shared<Source>(
      Source{.loop = this, .callback = [callback = std::move(callback)](std::uint32_t) { callback(); }});
  sd_event_source* handle = nullptr;
  const int made = or_throw(sd_event_add_signal(event_.get(), &handle, signal, on_signal, source.get()));
  if (made < 0) {
    return fail_errno(-made, "cannot wait for signal {}", signal);
  }
  source->handle.reset(handle);
  signals_.push_back(std::move(source));
  return {};
}

EventLoop::TimerId EventLoop::every(std::uint64_t period_ns, std::function<void()> callback) {
  SLUICE_CHECK(period_ns > 0);
  return add_timer(period_ns, period_ns, std::move(callback), {});
}

EventLoop::TimerId EventLoop::once(std::uint64_t delay_ns, std::function<void()> callback,
                                   NoMemory no_memory) {
  return add_timer(delay_ns, 0, std::move(callback), std::move(no_memory));
}

EventLoop::TimerId EventLoop::add_timer(std::uint64_t delay_ns, std::uint64_t period_ns,
                                        std::function<void()> callback, NoMemory no_memory) {
  auto source = std::make_shared<Source>(
      Source{.loop = this,
             .callback = [callback = std::move(callback)](std::uint32_t) { callback(); },
             .no_memory = std::move(no_memory),
             .period_ns = period_ns,
             .timer = ++last_timer_});
  const auto at = timers_.emplace(source->timer, source).first;
  sd_event_source* handle = nullptr;
  const int made = sd_event_add_time(event_.get(), &handle, CLOCK_MONOTONIC, us_until(now_ns() + delay_ns),
                                     kTimerAccuracyUs, on_timer, source.get());
  if (made < 0) {
    timers_.erase(at);
    or_throw(made);
    SLUICE_CHECK(false, "sd_event_add_time: error {}", -made);
  }
  source->handle.reset(handle);
  return source->timer;
}

void EventLoop::cancel(TimerId timer) {
  const auto found = timers_.find(timer);
  if (found != timers_.end()) {
    found->second->removed = true;
    found->second->handle.reset();
    timers_.erase(found);
  }
}

int EventLoop::on_descriptor(sd_event_source*, int, std::uint32_t events, void* source) noexcept {
  auto* const known = static_cast<Source*>(source);
  // Kept alive: the callback may remove it.
  const std::shared_ptr<Source> keep =
      known->loop->watches_.at(sd_event_source_get_io_fd(known->handle.get()));
  EventLoop& loop = *keep->loop;
  if (keep->turn == loop.turns_) {
    loop.turn_is_over_ = true;  // everybody else was asked: it comes first in the next one
    return 0;
  }
  keep->turn = loop.turns_;
  loop.call(*keep, events);
  return 0;
}

int EventLoop::on_timer(sd_event_source*, std::uint64_t, void* source) noexcept {
  auto* const known = static_cast<Source*>(source);
  EventLoop& loop = *known->loop;
  const std::shared_ptr<Source> keep = loop.timers_.at(known->timer);
  loop.call(*keep, 0);
  if (keep->removed) {
    return 0;
  }
  if (keep->period_ns == 0) {
    loop.timers_.erase(keep->timer);
  } else {
    sd_event_source_set_time(keep->handle.get(), us_until(now_ns() + keep->period_ns));
    sd_event_source_set_enabled(keep->handle.get(), SD_EVENT_ONESHOT);
  }
  return 0;
}

int EventLoop::on_signal(sd_event_source*, const signalfd_siginfo*, void* source) noexcept {
  auto* const known = static_cast<Source*>(source);
  known->loop->call(*known, 0);
  return 0;
}

void EventLoop::call(Source& source, std::uint32_t events) {
  try {
    source.callback(events);
    return;
  } catch (const std::bad_alloc&) {
    ++out_of_memory_;
  }
  reserve_ = {};
  try {
    if (log_budget_.take()) {
      log::error("no memory is left: what was under way {}", source.no_memory ? "is ended" : "is not done");
    }
    if (source.no_memory && !source.removed) {
      source.no_memory();
    }
  } catch (const std::bad_alloc&) {
    ++out_of_memory_;  // its next event comes here again
  }
}

// One source's callback. False: nothing was due.
bool EventLoop::dispatch(std::uint64_t timeout_us) {
  const int done = sd_event_run(event_.get(), timeout_us);
  if (done == -ENOMEM) {
    ++out_of_memory_;
    reserve_ = {};  // what was due still is
    return true;
  }
  SLUICE_CHECK(done >= 0 || done == -EINTR, "sd_event_run: error {}", -done);
  return done > 0;
}

// Each descriptor is heard once at most: one that is always ready does not keep timers waiting.
void EventLoop::turn(int timeout_ms) {
  const std::uint64_t timeout_us =
      timeout_ms < 0 ? UINT64_MAX : std::uint64_t{static_cast<unsigned>(timeout_ms)} * 1000;
  ++turns_;
  turn_is_over_ = false;
  for (int calls = 0; calls < kCallsPerTurn && !turn_is_over_; ++calls) {
    if (!dispatch(calls == 0 ? timeout_us : 0)) {
      break;
    }
  }
  fill_reserve();
}

void EventLoop::fill_reserve() {
  for (auto& part : reserve_) {
    if (part == nullptr) {
      part.reset(new (std::nothrow) std::byte[kReserveBytes]);
    }
  }
}

void EventLoop::run() {
  stopped_ = false;
  while (!stopped_) {
    turn(-1);
  }
}

}  // namespace sluice
