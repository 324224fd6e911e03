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

namespace sluice {

class TeardownProbe {
 public:
  // Made when the queue is opened, so that closing cannot fail for want of memory, descriptors or the right
  // namespace.
  static Result<std::unique_ptr<TeardownProbe>> create();

  enum class Outcome : std::uint8_t { kFree, kBusy };
  // Once. Waits at most `limit_ns`; kBusy: the kernel, or another socket, still has the queue.
  Outcome wait_until_free(int ifindex, QueueId queue, std::uint64_t limit_ns);

 private:
  Mapping memory_;  // one page: the smallest UMEM there is
  UniqueFd socket_;
};

}  // namespace sluice
