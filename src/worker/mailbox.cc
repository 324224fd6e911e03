#include "worker/mailbox.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <new>

#include "base/check.h"
#include "base/clock.h"

namespace sluice {

Result<std::unique_ptr<Mailbox>> Mailbox::create() {
  std::unique_ptr<Mailbox> mailbox(new Mailbox);
  mailbox->wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!mailbox->wake_) {
    return fail_errno(errno, "cannot make an eventfd");
  }
  return mailbox;
}

void Mailbox::run(const Task& task) {
  Call call{.task = [&task] { task(); }};
  post(call);
  wait(call);
  if (call.out_of_memory) {
    std::rethrow_exception(call.out_of_memory);
  }
}

void Mailbox::post(Call& call) {
  std::lock_guard lock(mutex_);
  calls_.push_back(&call);
  pending_.store(true, std::memory_order_release);
  // Always written, whether the worker sleeps or not: a wake-up cannot be lost between its last look and its
  // sleep, and this is the control thread, which has the time.
  wake();
}

void Mailbox::wake() {
  const std::uint64_t one = 1;
  SLUICE_CHECK(::write(wake_.get(), &one, sizeof one) == sizeof one, "eventfd: errno {}", errno);
}

bool Mailbox::wait(const Call& call, std::uint64_t deadline_ns) {
  const std::uint64_t now = now_ns();
  const std::chrono::nanoseconds left(deadline_ns > now ? deadline_ns - now : 0);
  std::unique_lock lock(mutex_);
  return done_.wait_for(lock, left, [&call] { return call.done; });
}

void Mailbox::wait(const Call& call) {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&call] { return call.done; });
}

bool Mailbox::cancel(const Call& call) {
  std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(calls_, &call);
  if (found == calls_.end()) {
    return false;
  }
  calls_.erase(found);
  return true;
}

void Mailbox::run_pending() {
  drain();
  std::unique_lock lock(mutex_);
  for (std::size_t left = calls_.size(); left > 0 && !calls_.empty(); --left) {
    Call* call = calls_.front();
    calls_.pop_front();
    lock.unlock();
    try {
      call->task();
    } catch (const std::bad_alloc&) {
      call->out_of_memory = std::current_exception();
    }
    count_.add(1);
    lock.lock();
    call->done = true;  // from here on it is its poster's again
    done_.notify_all();
  }
  pending_.store(!calls_.empty(), std::memory_order_release);
}

void Mailbox::drain() {
  std::uint64_t count;
  SLUICE_CHECK(::read(wake_.get(), &count, sizeof count) == sizeof count || errno == EAGAIN,
               "eventfd: errno {}", errno);
}

}  // namespace sluice
