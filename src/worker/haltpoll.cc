#include "worker/haltpoll.h"

#include <pthread.h>
#include <sched.h>

#include <cstring>

#include "base/clock.h"
#include "base/least_privilege.h"
#include "base/log.h"
#include "base/pause_cpu.h"

namespace sluice {

namespace {

// Between two offers to give way. A worker that waits so long loses nothing, and the system calls stay few
// beside those of the traffic.
constexpr std::uint64_t kYieldEveryNs = 15'000;
constexpr int kPausesPerLook = 32;  // at the clock: 0.5 to 2 us

}  // namespace

Haltpoll::Haltpoll(const std::string& name)
    : thread_([this, name] {
        ::pthread_setname_np(::pthread_self(), name.c_str());
        run();
      }) {}

Haltpoll::~Haltpoll() {
  tell(Order::kEnd);
  thread_.join();
}

void Haltpoll::tell(Order order) {
  if (order_.load(std::memory_order_relaxed) != order) {
    order_.store(order, std::memory_order_release);
    order_.notify_one();
  }
}

void Haltpoll::run() {
  // Needs no privilege. In another class this thread would take the core from the worker that it serves.
  const sched_param lowest{};
  const int error = ::pthread_setschedparam(::pthread_self(), SCHED_IDLE, &lowest);
  if (error != 0) {
    log::warn("no core is kept awake: the scheduling class SCHED_IDLE is refused ({})", std::strerror(error));
    return;
  }
  if (auto confined = confine_thread(ThreadKind::kHaltpoll); !confined) {
    log::warn("no core is kept awake: {}", confined.error().message);
    return;
  }
  for (;;) {
    order_.wait(Order::kLetRest, std::memory_order_acquire);
    for (Order order; (order = order_.load(std::memory_order_relaxed)) != Order::kLetRest;) {
      if (order == Order::kEnd) {
        return;
      }
      for (const std::uint64_t until = now_ns() + kYieldEveryNs; now_ns() < until;) {
        for (int i = 0; i < kPausesPerLook; ++i) {
          pause_cpu();
        }
      }
      // The lowest class is preempted by who wakes up, but not by who was preempted and may go on: without
      // this a worker that an app interrupted waits for the next tick (kernel/sched/fair.c, pick_eevdf: the
      // eligible one is picked first, of whatever class).
      ::sched_yield();
    }
  }
}

}  // namespace sluice
