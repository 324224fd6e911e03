// TeardownProbe: tells when the kernel has let go of a queue after its AF_XDP socket was closed.
//
// close(2) only starts it: the socket's buffer pool, and in driver zero-copy mode the NIC's own queue, are
// torn down by a work item later (net/xdp/xsk_buff_pool.c, xp_release_deferred). A queue can have one pool at
// a time, so the queue is free, and the NIC writes to its pages no more, when another socket can be bound to
// it (D7).
#pragma once

#include <cstdint>
#include <memory>

#include "base/fd.h"
#include "base/ids.h"
#include "base/result.h"
#include "xsk/af_xdp_socket.h"
#include "xsk/queue_kernel.h"

namespace sluice {

class TeardownProbe {
 public:
  // Made when the queue is opened, so that closing cannot fail for want of memory, descriptors or the right
  // namespace.
  static Result<std::unique_ptr<TeardownProbe>> create(QueueKernel& kernel = QueueKernel::real());

  enum class Outcome : std::uint8_t { kFree, kBusy };
  // What an answer to bind(2) says of the queue. Free: it was bound (0), or there is no such device or queue
  // any more. Everything else tells nothing: another pool has it, or the kernel could not look.
  static Outcome judge(int error);
  // Looks once. Any thread, one at a time; kFree is the last answer.
  Outcome ask(int ifindex, QueueId queue);
  // The same until it is free, for at most `limit_ns`.
  Outcome wait_until_free(int ifindex, QueueId queue, std::uint64_t limit_ns);

 private:
  explicit TeardownProbe(QueueKernel& kernel) : kernel_(kernel) {}

  QueueKernel& kernel_;
  Mapping memory_;  // one page: the smallest UMEM there is
  AfXdpSocket socket_;
  bool free_ = false;
};

}  // namespace sluice
