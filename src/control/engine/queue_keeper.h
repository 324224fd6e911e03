// QueueKeeper: the queues of all NICs, each from the wish to have it to the last page at home.
//
//               bind(2) by a helper              the worker has let go
//   open() ---> opening ----------------> open ----------------------> closing ---> gone
//                  |  ^                     ^                          close(2), then asked until the kernel
//                  is v  | again and again     |                          done, by a helper; pages home (D7)
//                 failed -------------------+
//
// A closed queue whose pages are still in another NIC's TX ring is gone all the same: its pool retires until
// they are home (memory/retired.h).
//
// Nobody waits for the kernel: control learns of a call's end by an eventfd, workers of nothing at all. A
// queue waits while another one of the same place is closing.
#pragma once

#include <cerrno>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/ids.h"
#include "base/result.h"
#include "control/engine/host_memory.h"
#include "control/engine/kernel_helper.h"
#include "memory/pool.h"
#include "memory/retired.h"
#include "port/nic/queue.h"
#include "worker/worker.h"

namespace sluice {

enum class QueueState : std::uint8_t { kOpening, kOpen, kClosing, kFailed };
const char* text_of(QueueState state);  // as `show queues` says it

// What a queue is to be.
struct QueueWish {
  NicQueueOptions options;
  WorkerId worker{0};
  std::optional<PortId> owner;  // none: host, whose memory the keeper takes and gives back
  bool observe = false;         // of owned queues
  Umem* umem = nullptr;         // of owned queues: live until when_unused() has said so
  PagePool* pool = nullptr;     // of owned queues
};

class KeptQueue {
 public:
  const QueueWish& wish() const { return wish_; }
  QueueState state() const { return state_; }
  // Opening, closing: what it waits for; failed: why. "": nothing out of the ordinary.
  const std::string& why() const { return why_; }
  std::uint64_t since_ns() const { return since_ns_; }  // of the state
  bool is_taken() const { return failure_ == EBUSY; }   // failed: another socket has it
  bool open() const { return state_ == QueueState::kOpen; }
  NicQueue* socket() const { return socket_.get(); }              // while open
  const PagePool* host_pool() const { return host_pool_.get(); }  // null: it has none

 private:
  friend class QueueKeeper;
  QueueWish wish_;
  QueueState state_ = QueueState::kOpening;
  std::string why_;
  std::uint64_t since_ns_ = 0;
  std::function<Result<void>(KeptQueue&)> serve_;

  std::optional<HostMemory::Range> range_;
  std::unique_ptr<PagePool> host_pool_;
  std::unique_ptr<NicQueue> socket_;  // behind its pool

  bool called_ = false;            // a helper is in the kernel for it
  std::uint64_t called_ns_ = 0;    // since then
  std::uint64_t due_ns_ = 0;       // its next step
  std::uint64_t pause_ns_ = 0;     // between two tries
  std::uint64_t deadline_ns_ = 0;  // opening: to be failed then
  bool failed_before_ = false;
  int failure_ = 0;      // its errno
  bool again_ = false;   // closing: to be opened again, which failed
  bool let_go_ = false;  // closing: the kernel has
  bool warned_ = false;
  bool gone_ = false;
};

// Control thread.
class QueueKeeper {
 public:
  struct Parts {
    EventLoop* loop = nullptr;
    HostMemory* host_memory = nullptr;
    std::span<const std::unique_ptr<Worker>> workers;
    QueueKernel* kernel = &QueueKernel::real();
  };
  static Result<std::unique_ptr<QueueKeeper>> create(const Parts& parts);
  // Everything must be closed; finish() says whether it is.
  ~QueueKeeper();

  // `serve` gives the open queue to its worker and to the program; its error makes the queue a failed one.
  KeptQueue& open(QueueWish wish, std::function<Result<void>(KeptQueue&)> serve);
  // Neither the program nor the worker uses it any more. The reference ends here.
  void close(KeptQueue& queue);
  // Calls `done`, at once or later, when no queue uses the UMEM or pools over it any more.
  void when_unused(const Umem* umem, std::function<void()> done);

  // No queue is opening or closing: each is open, or has failed.
  bool settled() const;
  // Waits for that; for the start, which has nobody to serve yet.
  bool wait_settled(std::uint64_t limit_ns);
  // For the end: waits until all that was closed is gone. False: something is not; its memory, and what it
  // stands on, is never given back then.
  bool finish(std::uint64_t limit_ns);

  const std::list<std::unique_ptr<KeptQueue>>& queues() const { return queues_; }
  // Takes what helpers have done, and makes each queue's next step that is due. The loop calls it.
  void turn();
  // Pools of closed queues whose pages other NICs have.
  const RetiredPools& retired() const { return *retired_; }
  std::size_t calls_under_way() const { return helper_->under_way(); }

 private:
  explicit QueueKeeper(const Parts& parts) : parts_(parts) {}
  struct Unused {
    const Umem* umem;
    std::function<void()> done;
  };

  bool may_call(const KeptQueue& queue, std::uint64_t now) const;
  bool place_is_taken(const KeptQueue& queue) const;
  void step(KeptQueue& queue, std::uint64_t now);
  Result<void> prepare(KeptQueue& queue);
  void try_to_bind(KeptQueue& queue);
  void bind_ended(KeptQueue& queue, int error);
  void opened(KeptQueue& queue);
  void fail_later(KeptQueue& queue, const Error& error);
  void note_failure(KeptQueue& queue, const Error& error);
  void begin_closing(KeptQueue& queue);
  void ask_whether_let_go(KeptQueue& queue);
  void bring_home(KeptQueue& queue);
  void done_closing(KeptQueue& queue);
  void drop_memory(KeptQueue& queue);
  void give_back(std::unique_ptr<PagePool> pool, const HostMemory::Range& range);
  bool wait_until(const std::function<bool()>& condition, std::uint64_t limit_ns);
  void call(KeptQueue& queue, std::function<int()> call, void (QueueKeeper::*done)(KeptQueue&, int));
  void let_go_ended(KeptQueue& queue, int free);
  void again_soon(KeptQueue& queue);
  void set_state(KeptQueue& queue, QueueState state);
  void sweep();
  void arm();
  std::uint64_t next_due(std::uint64_t now) const;

  Parts parts_;
  std::unique_ptr<KernelHelper> helper_;
  std::list<std::unique_ptr<KeptQueue>> queues_;  // whose turn it was longest ago first
  std::vector<Unused> unused_;
  std::unique_ptr<RetiredPools> retired_ = std::make_unique<RetiredPools>();
  EventLoop::TimerId timer_ = 0;
  bool in_turn_ = false;
};

}  // namespace sluice
