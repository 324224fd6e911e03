#include "control/engine/queue_keeper.h"

#include <poll.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <ranges>

#include "base/check.h"
#include "base/clock.h"
#include "base/leave_behind.h"
#include "base/log.h"
#include "port/nic/pool_buffers.h"

namespace sluice {

namespace {

constexpr std::uint64_t kMs = 1'000'000;
// A previous socket's pool is torn down after an RCU grace period by a work item that waits for RTNL:
// milliseconds; 0.2 s were seen with both CPUs sending as fast as they can. Who has it for longer than this
// is another program.
constexpr std::uint64_t kBindPatienceNs = 8000 * kMs;
constexpr std::uint64_t kSlowNs = 1000 * kMs;  // from here on a wait is worth a line in the log
// After close(2) has returned. In copy mode the kernel itself wrote the pages and stopped with it; a NIC that
// may still write is waited for without end.
constexpr std::uint64_t kTeardownPatienceNs = 5000 * kMs;
// Between two tries: soon at first.
constexpr std::uint64_t kFirstPauseNs = 1 * kMs;
constexpr std::uint64_t kLongestPauseNs = 50 * kMs;
constexpr std::uint64_t kFailedPauseNs = 1000 * kMs;
// Calls for the queues of one NIC are made one after another, so that the second finds the first one's
// registration to share. Unless one takes that long; and then no more than so many, for other NICs' sake.
constexpr std::uint64_t kHeadStartNs = 100 * kMs;
constexpr int kMostCallsPerNic = 4;
// How long a worker may let control wait that brings pages home. Later is as good.
constexpr std::uint64_t kHomePatienceNs = 10 * kMs;
// Between two looks at pools whose pages other NICs have.
constexpr std::uint64_t kRetiredPauseNs = 50 * kMs;
// So many pools of one queue may wait for such pages, and no more: a NIC that comes and goes beside one that
// sends nothing must not use up memory (D6).
constexpr std::size_t kMostRetired = 4;

std::string name_of(const KeptQueue& queue) {
  return fmt::format("nic {}, queue {}", queue.wish().options.netdev, raw(queue.wish().options.queue));
}

std::string pool_name(const KeptQueue& queue) {
  return fmt::format("{}:{}", queue.wish().options.netdev, raw(queue.wish().options.queue));
}

}  // namespace

const char* text_of(QueueState state) {
  switch (state) {
    case QueueState::kOpening:
      return "opening";
    case QueueState::kOpen:
      return "open";
    case QueueState::kClosing:
      return "closing";
    case QueueState::kFailed:
      return "failed";
  }
  return "unknown";
}

Result<std::unique_ptr<QueueKeeper>> QueueKeeper::create(const Parts& parts) {
  std::unique_ptr<QueueKeeper> keeper(new QueueKeeper(parts));
  auto helper = KernelHelper::create();
  SLUICE_TRY(helper);
  keeper->helper_ = std::move(*helper);
  SLUICE_TRY(parts.loop->add(keeper->helper_->wake_fd(), EPOLLIN,
                             [self = keeper.get()](std::uint32_t) { self->turn(); }));
  return keeper;
}

QueueKeeper::~QueueKeeper() {
  if (timer_ != 0) {
    parts_.loop->cancel(timer_);
  }
  if (helper_) {
    parts_.loop->remove(helper_->wake_fd());
  }
  SLUICE_CHECK(queues_.empty(), "{} queues are not closed", queues_.size());
}

KeptQueue& QueueKeeper::open(QueueWish wish, std::function<Result<void>(KeptQueue&)> serve) {
  SLUICE_CHECK(wish.owner.has_value() == (wish.pool != nullptr));
  auto queue = std::make_unique<KeptQueue>();
  queue->wish_ = std::move(wish);
  queue->serve_ = std::move(serve);
  set_state(*queue, QueueState::kOpening);
  queue->deadline_ns_ = queue->since_ns_ + kBindPatienceNs;
  KeptQueue& kept = *queue;
  queues_.push_back(std::move(queue));
  arm();
  return kept;
}

void QueueKeeper::close(KeptQueue& queue) {
  SLUICE_CHECK(queue.state_ != QueueState::kClosing || queue.again_, "{} is closed twice", name_of(queue));
  queue.serve_ = nullptr;
  queue.failed_before_ = false;
  if (std::exchange(queue.again_, false)) {
    return;  // it is on its way already
  }
  begin_closing(queue);
  if (!in_turn_) {
    sweep();
    arm();
  }
}

void QueueKeeper::when_unused(const Umem* umem, std::function<void()> done) {
  unused_.push_back({umem, std::move(done)});
  if (!in_turn_) {
    sweep();
  }
}

bool QueueKeeper::settled() const {
  return std::ranges::all_of(queues_, [](const auto& queue) {
    return queue->state_ == QueueState::kOpen || queue->state_ == QueueState::kFailed;
  });
}

bool QueueKeeper::wait_settled(std::uint64_t limit_ns) {
  return wait_until([this] { return settled(); }, limit_ns);
}

bool QueueKeeper::wait_until(const std::function<bool()>& condition, std::uint64_t limit_ns) {
  const std::uint64_t deadline = now_ns() + limit_ns;
  for (;;) {
    turn();
    const std::uint64_t now = now_ns();
    if (condition() || now >= deadline) {
      return condition();
    }
    const std::uint64_t next = std::min(next_due(now), deadline);
    pollfd done{.fd = helper_->wake_fd(), .events = POLLIN, .revents = 0};
    ::poll(&done, 1, next <= now ? 0 : static_cast<int>((next - now) / kMs) + 1);
  }
}

bool QueueKeeper::finish(std::uint64_t limit_ns) {
  if (wait_until([this] { return queues_.empty() && retired_->count() == 0; }, limit_ns)) {
    return true;
  }
  for (auto& queue : queues_) {
    log::warn("{}: still {} at the end: the kernel closes it with this process", name_of(*queue),
              text_of(queue->state_));
    // D7: its pages, its pool and what a helper's call uses stay where they are.
    leave_behind(std::move(queue));
  }
  queues_.clear();
  leave_behind(std::make_unique<std::vector<Unused>>(std::exchange(unused_, {})));
  leave_behind(std::exchange(retired_, std::make_unique<RetiredPools>()));
  return false;
}

// --- turns ---

void QueueKeeper::turn() {
  if (in_turn_) {
    return;
  }
  // A step that finds no memory (std::bad_alloc) ends the turn; the next one goes on with what is left to do.
  struct InTurn {
    explicit InTurn(QueueKeeper& keeper) : keeper_(keeper) { keeper_.in_turn_ = true; }
    ~InTurn() {
      keeper_.in_turn_ = false;
      if (!ended_) {
        keeper_.helper_->wake();
      }
    }
    QueueKeeper& keeper_;
    bool ended_ = false;
  } in_turn(*this);
  helper_->take_done();
  std::vector<KeptQueue*> all;  // steps may add more
  for (const auto& queue : queues_) {
    all.push_back(queue.get());
  }
  const std::uint64_t now = now_ns();
  for (KeptQueue* queue : all) {
    if (!queue->gone_ && !queue->called_ && queue->due_ns_ <= now) {
      step(*queue, now);
    }
  }
  retired_->turn(now);
  in_turn_ = false;
  sweep();
  arm();
  in_turn.ended_ = true;
}

void QueueKeeper::step(KeptQueue& queue, std::uint64_t now) {
  switch (queue.state_) {
    case QueueState::kOpen:
      return;
    case QueueState::kOpening:
    case QueueState::kFailed:
      if (place_is_taken(queue) || retired_->count(pool_name(queue)) >= kMostRetired) {
        queue.deadline_ns_ = now + kBindPatienceNs;
        queue.due_ns_ = now + kLongestPauseNs;  // or when that one is done
        queue.why_ = place_is_taken(queue) ? "its former socket is being closed"
                                           : "pages of its former sockets are in the TX ring of another NIC";
        return;
      }
      if (may_call(queue, now)) {
        try_to_bind(queue);
      }
      return;
    case QueueState::kClosing:
      if (queue.let_go_) {
        bring_home(queue);
      } else if (may_call(queue, now)) {
        ask_whether_let_go(queue);
      }
      return;
  }
}

// Of the same pool, or of the same queue of the same device or name: its pages and the kernel's side first.
bool QueueKeeper::place_is_taken(const KeptQueue& queue) const {
  const NicQueueOptions& mine = queue.wish_.options;
  return std::ranges::any_of(queues_, [&](const auto& other) {
    const NicQueueOptions& theirs = other->wish_.options;
    return other.get() != &queue && !other->gone_ && other->state_ == QueueState::kClosing &&
           theirs.queue == mine.queue && (theirs.ifindex == mine.ifindex || theirs.netdev == mine.netdev);
  });
}

bool QueueKeeper::may_call(const KeptQueue& queue, std::uint64_t now) const {
  if (!helper_->has_room()) {
    return false;
  }
  int calls = 0;
  bool young = false;
  for (const auto& other : queues_) {
    if (other->called_ && other->wish_.options.ifindex == queue.wish_.options.ifindex) {
      ++calls;
      young |= now - other->called_ns_ < kHeadStartNs;
    }
  }
  return !young && calls < kMostCallsPerNic;
}

void QueueKeeper::call(KeptQueue& queue, std::function<int()> call,
                       void (QueueKeeper::*done)(KeptQueue&, int)) {
  // Behind all others, so that none waits for ever.
  auto place = std::ranges::find_if(queues_, [&](const auto& other) { return other.get() == &queue; });
  queues_.splice(queues_.end(), queues_, place);
  helper_->run(std::move(call), [this, &queue, done](int result) {
    queue.called_ = false;
    (this->*done)(queue, result);
  });
  queue.called_ = true;  // the helper has it
  queue.called_ns_ = now_ns();
}

void QueueKeeper::again_soon(KeptQueue& queue) {
  queue.pause_ns_ = std::clamp(queue.pause_ns_ * 2, kFirstPauseNs, kLongestPauseNs);
  queue.due_ns_ = now_ns() + queue.pause_ns_;
}

void QueueKeeper::set_state(KeptQueue& queue, QueueState state) {
  queue.state_ = state;
  queue.why_.clear();
  queue.since_ns_ = now_ns();
  queue.pause_ns_ = 0;
  queue.due_ns_ = 0;
  queue.warned_ = false;
}

void QueueKeeper::sweep() {
  std::erase_if(queues_, [](const auto& queue) { return queue->gone_; });
  std::vector<std::function<void()>> done;
  std::erase_if(unused_, [&](Unused& unused) {
    const bool used =
        std::ranges::any_of(queues_, [&](const auto& queue) { return queue->wish_.umem == unused.umem; });
    if (!used) {
      done.push_back(std::move(unused.done));
    }
    return !used;
  });
  for (const auto& call : done) {
    call();
  }
}

// When something is to be done that no helper's end tells of.
std::uint64_t QueueKeeper::next_due(std::uint64_t now) const {
  std::uint64_t next = retired_->count() != 0 ? now + kRetiredPauseNs : UINT64_MAX;
  for (const auto& queue : queues_) {
    if (queue->called_ || queue->state_ == QueueState::kOpen) {
      continue;
    }
    const bool waits = queue->due_ns_ <= now && helper_->under_way() > 0;  // at the latest for a head start
    next = std::min(next, waits ? now + kHeadStartNs : queue->due_ns_);
  }
  return next;
}

void QueueKeeper::arm() {
  if (timer_ != 0) {
    parts_.loop->cancel(std::exchange(timer_, 0));
  }
  const std::uint64_t now = now_ns(), next = next_due(now);
  if (next != UINT64_MAX) {
    timer_ = parts_.loop->once(next <= now ? 0 : next - now, [this] {
      timer_ = 0;
      turn();
    });
  }
}

// --- opening ---

Result<void> QueueKeeper::prepare(KeptQueue& queue) {
  QueueWish& wish = queue.wish_;
  Umem* umem = wish.umem;
  PagePool* pool = wish.pool;
  PoolDirectory* pools = nullptr;  // what is a port's leaves by no other queue (D1)
  if (!wish.owner) {
    auto range = parts_.host_memory->take(pages_for_queue(wish.options, 0));
    SLUICE_TRY(range);
    queue.range_ = *range;
    PagePoolOptions options;
    options.name = pool_name(queue);
    options.first = range->first;
    options.page_count = range->page_count;
    options.reuse = PagePoolOptions::Reuse::kOldestFirst;
    auto made = PagePool::create(*range->arena, options);
    SLUICE_TRY(made);
    SLUICE_TRY(range->pools->add(**made, wish.options.tx_entries));
    queue.host_pool_ = std::move(*made);
    pool = queue.host_pool_.get();
    umem = range->umem;
    pools = range->pools;
  }
  auto socket =
      NicQueue::prepare(wish.options, *umem,
                        std::make_unique<PoolBuffers>(*pool, wish.options.tx_entries, pools), *parts_.kernel);
  SLUICE_TRY(socket);
  queue.socket_ = std::move(*socket);
  return {};
}

// What other NICs have of the pool comes home when they have sent it; until then its range stays as it is.
void QueueKeeper::drop_memory(KeptQueue& queue) {
  queue.socket_.reset();
  if (!queue.range_) {
    return;
  }
  const HostMemory::Range range = *std::exchange(queue.range_, std::nullopt);
  if (!queue.host_pool_) {
    parts_.host_memory->give_back(range);
    return;
  }
  queue.host_pool_->collect();
  if (queue.host_pool_->idle()) {
    give_back(std::move(queue.host_pool_), range);
    return;
  }
  retired_->add(
      std::move(queue.host_pool_),
      [this, range](std::unique_ptr<PagePool> pool) { give_back(std::move(pool), range); }, now_ns());
}

void QueueKeeper::give_back(std::unique_ptr<PagePool> pool, const HostMemory::Range& range) {
  range.pools->remove(*pool);  // CHECKs that every page came home
  pool.reset();
  parts_.host_memory->give_back(range);
}

void QueueKeeper::try_to_bind(KeptQueue& queue) {
  if (!queue.socket_) {
    if (auto prepared = prepare(queue); !prepared) {
      note_failure(queue, prepared.error());
      return;
    }
  }
  auto next = queue.socket_->next_bind();
  if (!next) {
    note_failure(queue, next.error());
    return;
  }
  auto bind = std::make_shared<NicQueue::Bind>(std::move(*next));
  call(
      queue,
      [kernel = parts_.kernel, bind] {
        const int error = kernel->bind(bind->socket, bind->address);
        bind->sibling.reset();
        return error;
      },
      &QueueKeeper::bind_ended);
}

void QueueKeeper::bind_ended(KeptQueue& queue, int error) {
  auto bound = queue.socket_->bound(error);
  if (queue.state_ == QueueState::kClosing) {
    begin_closing(queue);  // it was closed meanwhile
  } else if (!bound) {
    fail_later(queue, bound.error());
  } else if (*bound == NicQueue::Bound::kYes) {
    opened(queue);
  } else if (*bound == NicQueue::Bound::kOtherwise) {
    queue.due_ns_ = 0;
  } else if (queue.state_ == QueueState::kFailed || now_ns() >= queue.deadline_ns_) {
    note_failure(queue, Error{queue.socket_->explain_bind(error), error});
  } else {
    if (now_ns() - queue.since_ns_ >= kSlowNs) {
      queue.why_ = queue.socket_->explain_bind(error);
    }
    again_soon(queue);
  }
}

void QueueKeeper::opened(KeptQueue& queue) {
  const std::uint64_t waited_ns = now_ns() - queue.since_ns_;
  const bool failed_before = std::exchange(queue.failed_before_, false);
  set_state(queue, QueueState::kOpen);
  if (auto served = queue.serve_(queue); !served) {
    queue.failed_before_ = failed_before;
    fail_later(queue, served.error());
    return;
  }
  if (failed_before) {
    log::info("{}: open now", name_of(queue));
  } else if (waited_ns >= kSlowNs) {
    log::warn("{}: another socket, or the kernel taking one down, had it for {} ms", name_of(queue),
              waited_ns / kMs);
  }
}

// What is bound is closed first.
void QueueKeeper::fail_later(KeptQueue& queue, const Error& error) {
  note_failure(queue, error);
  if (queue.socket_ && queue.socket_->is_bound()) {
    std::string why = std::move(queue.why_);
    queue.again_ = true;
    begin_closing(queue);
    queue.why_ = std::move(why);
  }
}

// A socket that waits for another one's end is kept: to make it is to pin its memory.
void QueueKeeper::note_failure(KeptQueue& queue, const Error& error) {
  const bool bound = queue.socket_ && queue.socket_->is_bound();
  if (!bound && error.os_errno != EBUSY) {
    drop_memory(queue);
  }
  if (!queue.failed_before_ || error.message != queue.why_) {
    log::error("{}: {}; trying again every second", name_of(queue), error.message);
  }
  if (queue.state_ != QueueState::kFailed) {
    set_state(queue, QueueState::kFailed);
  }
  queue.failed_before_ = true;
  queue.failure_ = error.os_errno;
  queue.why_ = error.message;
  queue.due_ns_ = now_ns() + kFailedPauseNs;
}

// --- closing ---

void QueueKeeper::begin_closing(KeptQueue& queue) {
  if (queue.state_ != QueueState::kClosing) {
    set_state(queue, QueueState::kClosing);
  }
  if (queue.called_) {
    return;  // its bind(2) must end first
  }
  queue.due_ns_ = 0;
  const bool bound = queue.socket_ && queue.socket_->is_bound();
  if (queue.socket_) {
    queue.socket_->release();
  }
  if (!bound) {
    done_closing(queue);
  }
}

void QueueKeeper::ask_whether_let_go(KeptQueue& queue) {
  call(
      queue, [socket = queue.socket_.get()] { return socket->let_go() ? 1 : 0; }, &QueueKeeper::let_go_ended);
}

void QueueKeeper::let_go_ended(KeptQueue& queue, int free) {
  if (free != 0) {
    queue.let_go_ = true;
    queue.due_ns_ = 0;
    return;
  }
  again_soon(queue);
  const std::uint64_t waited_ns = now_ns() - queue.since_ns_;
  if (waited_ns >= kSlowNs && !queue.again_) {
    queue.why_ = "the kernel, or another socket, still has it";
  }
  if (waited_ns < kTeardownPatienceNs) {
    return;
  }
  if (!std::exchange(queue.warned_, true)) {
    log::warn("{}: the kernel has not let go of the closed AF_XDP socket after {} s", name_of(queue),
              kTeardownPatienceNs / (1000 * kMs));
  }
  queue.let_go_ = !queue.socket_->zero_copy();
}

// An owned queue's pool may be used by its owner's lanes: the worker stands still for it.
void QueueKeeper::bring_home(KeptQueue& queue) {
  bool at_home = false;
  if (queue.wish_.owner) {
    Worker* const worker = parts_.workers[raw(queue.wish_.worker)].get();
    Worker::pause({&worker, 1}, kHomePatienceNs, [&] { at_home = queue.socket_->bring_home(); });
  } else {
    queue.host_pool_->collect();  // nobody else does any more
    at_home = queue.socket_->bring_home();
  }
  if (!at_home) {
    again_soon(queue);
    return;
  }
  done_closing(queue);
}

void QueueKeeper::done_closing(KeptQueue& queue) {
  if (queue.warned_) {
    log::info("{}: closed after {} ms", name_of(queue), (now_ns() - queue.since_ns_) / kMs);
  }
  drop_memory(queue);
  for (const auto& other : queues_) {
    if (other->state_ == QueueState::kOpening) {
      other->due_ns_ = 0;  // it may have waited for this one
    }
  }
  if (!std::exchange(queue.again_, false)) {
    queue.gone_ = true;
    return;
  }
  std::string why = std::move(queue.why_);
  set_state(queue, QueueState::kFailed);
  queue.let_go_ = false;
  queue.why_ = std::move(why);
  queue.due_ns_ = now_ns() + kFailedPauseNs;
}

}  // namespace sluice
