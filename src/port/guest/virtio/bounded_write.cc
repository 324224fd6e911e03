#include "port/guest/virtio/bounded_write.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

namespace sluice {

namespace {

constexpr int kTickSignal = SIGALRM;

// Only interrupts what the thread waits in: so without SA_RESTART.
bool handle_ticks() {
  struct sigaction action{};
  action.sa_handler = [](int) {};
  return ::sigaction(kTickSignal, &action, nullptr) == 0;
}

}  // namespace

BoundedWrite* BoundedWrite::of_this_thread() {
  thread_local std::unique_ptr<BoundedWrite> mine;
  if (mine == nullptr) {
    static const bool kHandled = handle_ticks();
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = kTickSignal;
    event._sigev_un._tid = ::gettid();
    timer_t timer{};
    if (!kHandled || ::timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) {
      return nullptr;
    }
    mine = std::unique_ptr<BoundedWrite>(new BoundedWrite(timer));
    sigset_t tick;
    ::sigemptyset(&tick);
    ::sigaddset(&tick, kTickSignal);
    ::pthread_sigmask(SIG_UNBLOCK, &tick, nullptr);
  }
  return mine.get();
}

BoundedWrite::~BoundedWrite() {
  ::timer_delete(timer_);
}

void BoundedWrite::tick(std::uint64_t every_ns) {
  const timespec time{.tv_sec = 0, .tv_nsec = static_cast<long>(every_ns)};
  const itimerspec ticks{.it_interval = time, .it_value = time};
  ::timer_settime(timer_, 0, &ticks, nullptr);
}

BoundedWrite::Done BoundedWrite::signal(int eventfd) {
  const std::uint64_t one = 1;
  tick(kTickNs);
  const ssize_t wrote = ::write(eventfd, &one, sizeof one);
  const int error = errno;
  tick(0);
  if (wrote == sizeof one) {
    return Done::kSignalled;
  }
  return error == EINTR ? Done::kWaited : error == EAGAIN ? Done::kFull : Done::kRefused;
}

}  // namespace sluice
