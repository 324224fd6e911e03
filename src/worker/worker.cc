#include "worker/worker.h"

#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <future>
#include <string>

#include "base/check.h"
#include "base/least_privilege.h"
#include "base/signals_blocked.h"
#include "worker/loop.h"
#include "worker/pause.h"

namespace sluice {

namespace {

constexpr std::uint32_t kMinLatencyUs = 1;
constexpr std::uint32_t kMaxLatencyUs = 1000;

std::string online_cpus() {
  std::ifstream file("/sys/devices/system/cpu/online");
  std::string text;
  return std::getline(file, text) ? text : "unknown";
}

Result<void> pin(const WorkerOptions& options) {
  const std::uint32_t cpu = *options.cpu;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpu < CPU_SETSIZE) {
    CPU_SET(cpu, &set);
  }
  if (cpu >= CPU_SETSIZE || ::sched_setaffinity(0, sizeof set, &set) < 0) {
    const int error = cpu >= CPU_SETSIZE ? EINVAL : errno;
    if (error == EINVAL) {  // no such CPU, or not in our cpuset: sched_setaffinity(2) does not tell which
      return fail("worker {}: cannot run on CPU {}: online are {}, and the cgroup's cpuset may allow fewer",
                  raw(options.id), cpu, online_cpus());
    }
    return fail_errno(error, "worker {}: cannot be pinned to CPU {}", raw(options.id), cpu);
  }
  return {};
}

}  // namespace

struct Worker::Parts {
  Parts(const WorkerOptions& options, std::unique_ptr<Mailbox> box)
      : mailbox(std::move(box)), loop(options, *mailbox) {}
  std::unique_ptr<Mailbox> mailbox;
  Loop loop;
  // Posted when it was late, so that its coming is known without waiting. Control thread.
  std::optional<Mailbox::Call> awaited;
};

bool Worker::is_late() {
  if (parts_->awaited && parts_->mailbox->wait(*parts_->awaited, 0)) {
    parts_->awaited.reset();
  }
  return parts_->awaited.has_value();
}

Worker::Worker(const WorkerOptions& options) : options_(options) {}

Result<std::unique_ptr<Worker>> Worker::start(const WorkerOptions& options) {
  if (options.latency_us < kMinLatencyUs || options.latency_us > kMaxLatencyUs) {
    return fail("worker {}: latency_us is {}, must be {} .. {}", raw(options.id), options.latency_us,
                kMinLatencyUs, kMaxLatencyUs);
  }
  if (options.idle == WorkerOptions::Idle::kAwake && !options.cpu) {
    return fail("worker {}: needs a CPU to keep it awake", raw(options.id));
  }
  auto mailbox = Mailbox::create();
  if (!mailbox) {
    return with_context(fmt::format("worker {}", raw(options.id)), mailbox.error());
  }
  std::unique_ptr<Worker> worker(new Worker(options));
  worker->parts_ = std::make_unique<Parts>(options, std::move(*mailbox));

  std::promise<Result<void>> started;
  std::future<Result<void>> outcome = started.get_future();
  {
    SignalsBlocked block;  // the new thread inherits the mask
    worker->thread_ = std::thread([worker = worker.get(), started = std::move(started)]() mutable {
      Result<void> prepared = worker->prepare_thread();
      const bool runs = prepared.has_value();
      Loop& loop = worker->parts_->loop;
      started.set_value(std::move(prepared));
      if (runs) {
        loop.run();
      }
    });
  }
  if (Result<void> prepared = outcome.get(); !prepared) {
    worker->thread_.join();
    return std::unexpected(std::move(prepared.error()));
  }
  return worker;
}

Result<void> Worker::prepare_thread() {
  ::pthread_setname_np(::pthread_self(), fmt::format("sluice-w{}", raw(options_.id)).c_str());
  ::prctl(PR_SET_TIMERSLACK, 1ul, 0ul, 0ul, 0ul);  // ns; the default of 50 us would double a nap (prctl(2))
  if (options_.cpu) {
    SLUICE_TRY(pin(options_));
  }
  if (options_.idle == WorkerOptions::Idle::kAwake) {
    parts_->loop.start_keeper();
  }
  if (options_.prepare) {
    options_.prepare();
  }
  // Last: what stands above needs more than a worker ever does again.
  if (auto confined = confine_thread(ThreadKind::kWorker); !confined) {
    return with_context(fmt::format("worker {}", raw(options_.id)), confined.error());
  }
  return {};
}

Worker::~Worker() {
  if (!thread_.joinable()) {
    return;  // never started
  }
  call([this](Tables& tables) {
    const auto used = std::ranges::count_if(tables.by_port, [](const Lane* lane) { return lane != nullptr; });
    SLUICE_CHECK(tables.queues.empty() && tables.lanes.empty() && used == 0,
                 "worker {} stops with {} queues, {} lanes, {} ports", raw(options_.id), tables.queues.size(),
                 tables.lanes.size(), used);
    parts_->loop.stop();
  });
  while (is_late()) {  // it ran before the call above
  }
  thread_.join();
}

void Worker::call(const std::function<void(Tables&)>& change) {
  SLUICE_CHECK(std::this_thread::get_id() != thread_.get_id(), "worker {} would wait for itself",
               raw(options_.id));
  parts_->mailbox->run([this, &change] { change(parts_->loop.tables()); });
}

std::optional<WorkerId> Worker::pause(std::span<Worker* const> workers, std::uint64_t limit_ns,
                                      const std::function<void()>& change) {
  std::vector<Mailbox*> mailboxes;
  for (Worker* worker : workers) {
    SLUICE_CHECK(std::this_thread::get_id() != worker->thread_.get_id(), "worker {} would wait for itself",
                 raw(worker->id()));
    if (worker->is_late() && limit_ns != kPauseForEver) {
      return worker->id();
    }
    mailboxes.push_back(worker->parts_->mailbox.get());
  }
  const auto late = pause_all(mailboxes, limit_ns, change);
  if (!late) {
    return std::nullopt;
  }
  Parts& parts = *workers[*late]->parts_;
  if (!parts.awaited) {
    parts.awaited.emplace(Mailbox::Call{.task = [] {}});
    parts.mailbox->post(*parts.awaited);
  }
  return workers[*late]->id();
}

void Worker::begin_window(PortId port, std::uint64_t budget_us) {
  if (meter().begin_window(port, budget_us)) {
    parts_->mailbox->wake();
  }
}

WorkerId Worker::id() const {
  return options_.id;
}

void Worker::visit(CounterVisitor& visitor) const {
  parts_->loop.visit(visitor);
}

PortMeter& Worker::meter() {
  return parts_->loop.meter();
}

const PortMeter& Worker::meter() const {
  return parts_->loop.meter();
}

std::uint64_t Worker::turns() const {
  return parts_->loop.turns();
}

std::uint64_t Worker::no_reader(PortId port) const {
  return parts_->loop.forwarder().no_reader(port);
}

}  // namespace sluice
