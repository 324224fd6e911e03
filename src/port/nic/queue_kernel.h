// QueueKernel: the system calls of a queue's life that may take the kernel long. bind(2) of an AF_XDP socket
// waits for RTNL and for the driver; closing the last descriptor of one waits for all CPUs (synchronize_net).
// Tests put a kernel in its place that answers what they like, or never.
#pragma once

#include <linux/if_xdp.h>

#include "base/fd.h"

namespace sluice {

// Any thread, also several at a time.
class QueueKernel {
 public:
  virtual ~QueueKernel() = default;
  virtual int bind(int socket, const sockaddr_xdp& address) = 0;  // 0, or the errno
  virtual void close(UniqueFd socket) = 0;

  static QueueKernel& real();
};

}  // namespace sluice
