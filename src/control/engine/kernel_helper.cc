#include "control/engine/kernel_helper.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/least_privilege.h"
#include "base/leave_behind.h"
#include "base/signals_blocked.h"

namespace sluice {

Result<std::unique_ptr<KernelHelper>> KernelHelper::create() {
  std::unique_ptr<KernelHelper> helper(new KernelHelper);
  helper->shared_->wake.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!helper->shared_->wake) {
    return fail_errno(errno, "cannot make an eventfd");
  }
  if (!helper->add_thread()) {
    return fail("cannot make a thread for the NICs' queues");
  }
  return helper;
}

bool KernelHelper::add_thread() {
  SignalsBlocked block;
  try {
    threads_.emplace_back([shared = shared_] { work(shared); });
  } catch (const std::system_error&) {
    return false;  // no room for one more: calls wait for those that there are
  }
  return true;
}

KernelHelper::~KernelHelper() {
  bool all_idle = false;
  {
    std::lock_guard lock(shared_->mutex);
    shared_->waiting.clear();
    shared_->ending = true;
    all_idle = shared_->idle == threads_.size();
    shared_->left_behind = !all_idle;
  }
  shared_->changed.notify_all();
  if (all_idle) {
    for (std::thread& thread : threads_) {
      thread.join();
    }
    return;
  }
  // Never destroyed, for they never end: see work().
  leave_behind(std::make_unique<std::vector<std::thread>>(std::move(threads_)));
}

void KernelHelper::run(std::function<int()> call, std::function<void(int)> done) {
  SLUICE_CHECK(has_room(), "{} calls under way", under_way_);
  ++under_way_;
  auto job = std::make_unique<Job>(Job{.call = std::move(call), .done = std::move(done)});
  bool need_thread = false;
  {
    std::lock_guard lock(shared_->mutex);
    shared_->waiting.push_back(std::move(job));
    need_thread = shared_->waiting.size() > shared_->idle && threads_.size() < kMostThreads;
  }
  shared_->changed.notify_one();
  if (need_thread) {
    add_thread();
  }
}

void KernelHelper::take_done() {
  std::uint64_t count;
  SLUICE_CHECK(::read(wake_fd(), &count, sizeof count) == sizeof count || errno == EAGAIN,
               "eventfd: errno {}", errno);
  for (;;) {
    std::unique_ptr<Job> job;
    {
      std::lock_guard lock(shared_->mutex);
      if (shared_->finished.empty()) {
        return;
      }
      job = std::move(shared_->finished.front());
      shared_->finished.pop_front();
    }
    --under_way_;
    job->done(job->result);
  }
}

void KernelHelper::wake() {
  const std::uint64_t one = 1;
  SLUICE_CHECK(::write(wake_fd(), &one, sizeof one) == sizeof one, "eventfd: errno {}", errno);
}

void KernelHelper::work(const std::shared_ptr<Shared>& shared) {
  ::pthread_setname_np(::pthread_self(), "sluice-nic");
  auto confined = confine_thread(ThreadKind::kNicHelper);
  SLUICE_CHECK(confined, "{}", confined.error().message);
  std::unique_lock lock(shared->mutex);
  for (;;) {
    ++shared->idle;
    // One that was left behind waits here until the process ends.
    shared->changed.wait(
        lock, [&shared] { return !shared->left_behind && (!shared->waiting.empty() || shared->ending); });
    --shared->idle;
    if (shared->ending) {
      return;
    }
    std::unique_ptr<Job> job = std::move(shared->waiting.front());
    shared->waiting.pop_front();
    lock.unlock();
    job->result = job->call();
    lock.lock();
    shared->finished.push_back(std::move(job));
    const std::uint64_t one = 1;
    SLUICE_CHECK(::write(shared->wake.get(), &one, sizeof one) == sizeof one, "eventfd: errno {}", errno);
  }
}

}  // namespace sluice
