#include "worker/mailbox.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "base/check.h"

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
  Call call{&task};
  std::unique_lock lock(mutex_);
  calls_.push_back(&call);
  pending_.store(true, std::memory_order_release);
  // Always written, whether the worker sleeps or not: a wake-up cannot be lost between its last look and its
  // sleep, and this is the control thread, which has the time.
  const std::uint64_t one = 1;
  SLUICE_CHECK(::write(wake_.get(), &one, sizeof one) == sizeof one, "eventfd: errno {}", errno);
  done_.wait(lock, [&call] { return call.done; });
}

void Mailbox::run_pending() {
  drain();
  {
    std::lock_guard lock(mutex_);
    running_.swap(calls_);
    pending_.store(false, std::memory_order_release);
  }
  for (const Call* call : running_) {
    (*call->task)();
    count_.add(1);
  }
  std::lock_guard lock(mutex_);
  for (Call* call : running_) {
    call->done = true;
  }
  running_.clear();
  done_.notify_all();
}

void Mailbox::drain() {
  std::uint64_t count;
  SLUICE_CHECK(::read(wake_.get(), &count, sizeof count) == sizeof count || errno == EAGAIN,
               "eventfd: errno {}", errno);
}

}  // namespace sluice
