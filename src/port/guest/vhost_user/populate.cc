#include "port/guest/vhost_user/populate.h"

#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/least_privilege.h"
#include "base/log.h"
#include "base/signals_blocked.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // Linux 5.14, include/uapi/asm-generic/mman-common.h
#endif

namespace sluice {

namespace {

// A third of a millisecond. One page, where that is more.
constexpr std::uint64_t kPieceBytes = std::uint64_t{2} << 20;

Result<void> populate(const GuestMapping& mapping, const std::atomic<bool>& cancelled,
                      std::atomic<std::uint64_t>& done_bytes) {
  const std::uint64_t step = std::max(kPieceBytes, mapping.page_bytes());
  for (std::uint64_t at = 0; at < mapping.bytes() && !cancelled.load(std::memory_order_relaxed);) {
    const std::uint64_t bytes = std::min(step, mapping.bytes() - at);
    if (::madvise(mapping.data() + at, bytes, MADV_POPULATE_WRITE) == 0) {
      at += bytes;
      done_bytes.fetch_add(bytes, std::memory_order_relaxed);
      continue;
    }
    switch (errno) {
      case EINTR:
      case EAGAIN:
        continue;
      case EINVAL:
        return fail("memory cannot be populated before Linux 5.14");
      case EFAULT:  // an access would have been SIGBUS
        return fail(
            "the file has no page for byte {:#x} of the region: it is shorter now, or its pages ran out", at);
      default:
        return fail_errno(errno, "byte {:#x} of the region cannot be populated", at);
    }
  }
  return {};
}

}  // namespace

struct Populator::Job {
  MemoryTable table;
  Done done;
  std::vector<GuestMapping*> mappings;  // of the table
  std::atomic<bool> cancelled{false}, finished{false};
  std::atomic<std::uint64_t> bytes{0};
  Result<void> result;  // the thread's until it has finished
  std::thread thread;
};

Populator::Populator(EventLoop& loop) : loop_(loop) {}

Populator::~Populator() {
  cancel();
  for (const auto& job : jobs_) {
    if (job->thread.joinable()) {
      job->thread.join();
    }
  }
  if (event_) {
    loop_.remove(event_.get());
  }
}

Result<void> Populator::prepare() {
  UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event) {
    return fail_errno(errno, "cannot make an eventfd");
  }
  SLUICE_TRY(loop_.add(event.get(), EPOLLIN, [this](std::uint32_t) { on_event(); }));
  event_ = std::move(event);
  return {};
}

void Populator::start(MemoryTable table, Done done) {
  SLUICE_CHECK(event_ && (jobs_.empty() || jobs_.back()->cancelled), "one is under way");
  if (jobs_.size() > 1) {
    jobs_.pop_back();  // was cancelled before it began
  }
  auto job = std::make_unique<Job>();
  for (const GuestRegion& region : table->regions()) {
    if (!region.mapping->populated) {
      job->mappings.push_back(region.mapping.get());
    }
  }
  job->table = std::move(table);
  job->done = std::move(done);
  jobs_.push_back(std::move(job));
  if (jobs_.size() == 1) {
    launch(*jobs_.front());
  }
}

void Populator::launch(Job& job) {
  auto run = [&job, event = event_.get()] {
    SignalsBlocked block;
    ::pthread_setname_np(::pthread_self(), "sluice-populate");
    if (auto confined = confine_thread(ThreadKind::kPopulator); !confined) {
      log::error("a populating thread keeps its privileges: {}", confined.error().message);
    }
    try {
      for (std::size_t i = 0; i < job.mappings.size() && job.result; ++i) {
        job.result = populate(*job.mappings[i], job.cancelled, job.bytes);
      }
    } catch (const std::bad_alloc&) {
      job.result = std::unexpected(Error{"no memory"});  // a sentence that needs none
    }
    job.finished.store(true, std::memory_order_release);
    const std::uint64_t one = 1;
    (void)!::write(event, &one, sizeof one);
  };
  try {
    job.thread = std::thread(run);
  } catch (const std::system_error& error) {
    job.result = fail_errno(error.code().value(), "cannot start a thread to populate memory");
    job.finished.store(true, std::memory_order_release);
    const std::uint64_t one = 1;
    (void)!::write(event_.get(), &one, sizeof one);
  }
}

void Populator::on_event() {
  std::uint64_t count = 0;
  (void)!::read(event_.get(), &count, sizeof count);
  if (jobs_.empty() || !jobs_.front()->finished.load(std::memory_order_acquire)) {
    return;
  }
  const std::unique_ptr<Job> job = std::move(jobs_.front());
  jobs_.pop_front();
  if (job->thread.joinable()) {
    job->thread.join();  // it has nothing more to do
  }
  if (!jobs_.empty()) {
    launch(*jobs_.front());
  }
  if (job->cancelled.load(std::memory_order_relaxed)) {
    return;  // and the last reference to the memory, perhaps, goes to the closer
  }
  if (job->result) {
    for (GuestMapping* mapping : job->mappings) {
      mapping->populated = true;
    }
  }
  job->done(std::move(job->result));
}

void Populator::cancel() {
  if (!jobs_.empty()) {
    jobs_.back()->cancelled.store(true, std::memory_order_relaxed);
  }
}

Populator::Progress Populator::progress() const {
  if (jobs_.empty() || jobs_.back()->cancelled.load(std::memory_order_relaxed)) {
    return {};
  }
  return {.running = true, .bytes = jobs_.back()->bytes.load(std::memory_order_relaxed)};
}

}  // namespace sluice
