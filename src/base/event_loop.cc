#include "base/event_loop.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"

namespace sluice {

namespace {
constexpr int kEventsPerTurn = 64;
}

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  std::unique_ptr<EventLoop> loop(new EventLoop);
  loop->epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!loop->epoll_) {
    return fail_errno(errno, "cannot make an epoll descriptor");
  }
  loop->fill_reserve();
  return loop;
}

EventLoop::~EventLoop() = default;

Result<void> EventLoop::add(int fd, std::uint32_t events, Callback callback, NoMemory no_memory) {
  const auto [at, is_new] = watches_.try_emplace(fd);
  if (!is_new) {
    return fail_errno(EEXIST, "cannot watch descriptor {}", fd);
  }
  try {
    at->second =
        std::make_shared<Watch>(Watch{.callback = std::move(callback), .no_memory = std::move(no_memory)});
  } catch (const std::bad_alloc&) {
    watches_.erase(at);
    std::rethrow_exception(std::current_exception());
  }
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) {
    const int error = errno;
    watches_.erase(fd);
    return fail_errno(error, "cannot watch descriptor {}", fd);
  }
  return {};
}

Result<void> EventLoop::modify(int fd, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) < 0) {
    return fail_errno(errno, "cannot change the watch on descriptor {}", fd);
  }
  return {};
}

void EventLoop::remove(int fd) {
  auto found = watches_.find(fd);
  if (found == watches_.end()) {
    return;
  }
  found->second->removed = true;  // an event of this turn that is still to come finds it so
  watches_.erase(found);
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

EventLoop::TimerId EventLoop::every(std::uint64_t period_ns, std::function<void()> callback) {
  SLUICE_CHECK(period_ns > 0);
  timers_.emplace(now_ns() + period_ns, Timer{++last_timer_, period_ns, std::move(callback), {}});
  return last_timer_;
}

EventLoop::TimerId EventLoop::once(std::uint64_t delay_ns, std::function<void()> callback,
                                   NoMemory no_memory) {
  timers_.emplace(now_ns() + delay_ns, Timer{++last_timer_, 0, std::move(callback), std::move(no_memory)});
  return last_timer_;
}

void EventLoop::cancel(TimerId timer) {
  if (timer == running_timer_) {
    running_cancelled_ = true;
  }
  std::erase_if(timers_, [timer](const auto& entry) { return entry.second.id == timer; });
}

void EventLoop::run_timers() {
  std::uint64_t now = now_ns();
  // A timer that re-arms itself is due after `now`, so this ends.
  while (!timers_.empty() && timers_.begin()->first <= now) {
    auto node = timers_.extract(timers_.begin());
    Timer& timer = node.mapped();
    running_timer_ = timer.id;
    running_cancelled_ = false;
    guarded(timer.callback, timer.no_memory, running_cancelled_);
    if (timer.period_ns != 0 && !running_cancelled_) {
      node.key() = now + timer.period_ns;
      timers_.insert(std::move(node));
    }
    running_timer_ = 0;
  }
}

int EventLoop::next_timeout_ms(int at_most_ms) const {
  if (timers_.empty()) {
    return at_most_ms;
  }
  std::uint64_t now = now_ns();
  std::uint64_t due = timers_.begin()->first;
  std::uint64_t wait_ms = due <= now ? 0 : (due - now) / 1'000'000 + 1;
  int wait = static_cast<int>(std::min<std::uint64_t>(wait_ms, 60'000));
  return at_most_ms < 0 ? wait : std::min(wait, at_most_ms);
}

void EventLoop::turn(int timeout_ms) {
  std::array<epoll_event, kEventsPerTurn> events;
  int count = ::epoll_wait(epoll_.get(), events.data(), kEventsPerTurn, next_timeout_ms(timeout_ms));
  SLUICE_CHECK(count >= 0 || errno == EINTR, "epoll_wait: errno {}", errno);
  std::array<std::pair<std::shared_ptr<Watch>, std::uint32_t>, kEventsPerTurn> ready;
  std::size_t ready_count = 0;
  for (int i = 0; i < count; ++i) {
    epoll_event event = events[static_cast<std::size_t>(i)];
    auto found = watches_.find(event.data.fd);
    if (found != watches_.end()) {
      ready[ready_count++] = {found->second, std::uint32_t{event.events}};
    }
  }
  for (std::size_t i = 0; i < ready_count; ++i) {
    const std::shared_ptr<Watch>& watch = ready[i].first;
    const std::uint32_t mask = ready[i].second;
    if (!watch->removed) {
      guarded([&watch, mask] { watch->callback(mask); }, watch->no_memory, watch->removed);
    }
  }
  run_timers();
  fill_reserve();
}

template <typename Run>
void EventLoop::guarded(const Run& run, const NoMemory& no_memory, const bool& gone) {
  try {
    run();
    return;
  } catch (const std::bad_alloc&) {
    ++out_of_memory_;
  }
  reserve_ = {};
  try {
    if (log_budget_.take()) {
      log::error("no memory is left: what was under way {}", no_memory ? "is ended" : "is not done");
    }
    if (no_memory && !gone) {
      no_memory();
    }
  } catch (const std::bad_alloc&) {
    ++out_of_memory_;  // its next event comes here again
  }
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
