#include "port/app/off_loop.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <memory>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/closer.h"
#include "base/least_privilege.h"
#include "base/log.h"
#include "base/signals_blocked.h"

namespace sluice {

OffLoop::~OffLoop() {
  if (!busy()) {
    return;
  }
  loop_.remove(wake_.get());
  auto thread = std::make_shared<std::thread>(std::move(thread_));
  auto wake = std::make_shared<UniqueFd>(std::move(wake_));
  Closer::of_process().run([thread, wake] { thread->join(); });
}

void OffLoop::run(std::function<void()> work, std::function<void()> done) {
  SLUICE_CHECK(!busy());
  done_ = std::move(done);
  if (!start(work)) {
    work();
    std::exchange(done_, nullptr)();
  }
}

bool OffLoop::start(std::function<void()> work) {
  wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_ || !loop_.add(wake_.get(), EPOLLIN, [this](std::uint32_t) { finish(); })) {
    return false;
  }
  SignalsBlocked block;
  try {
    thread_ = std::thread([wake = wake_.get(), work = std::move(work)]() mutable {
      ::pthread_setname_np(::pthread_self(), "sluice-maker");
      if (auto confined = confine_thread(ThreadKind::kMaker); !confined) {
        log::error("maker: {}", confined.error().message);
      }
      work();
      work = nullptr;  // what it holds goes here, if `done` does not need it
      const std::uint64_t one = 1;
      [[maybe_unused]] ssize_t written = ::write(wake, &one, sizeof(one));
    });
  } catch (const std::system_error&) {
    loop_.remove(wake_.get());
  }
  return busy();
}

void OffLoop::finish() {
  thread_.join();
  loop_.remove(wake_.get());
  wake_.reset();
  std::exchange(done_, nullptr)();
}

}  // namespace sluice
