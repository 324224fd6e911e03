// QueueKernel: the system calls of an AF_XDP socket. Tests put a kernel in its place that answers what they
// like, or never.
//
// bind(2) waits for RTNL and for the driver; closing the last descriptor of a socket waits for all CPUs
// (synchronize_net). These two may take the kernel long, so any thread may make them, also several at a time.
#pragma once

#include <linux/if_xdp.h>

#include <cstddef>
#include <cstdint>

namespace sluice {

class QueueKernel {
 public:
  virtual ~QueueKernel() = default;

  // May take long. 0, or the errno.
  virtual int bind(int socket, const sockaddr_xdp& address);
  // Of one that was bound: may take long.
  virtual void close(int socket);
  // Of one that never was.
  virtual void discard(int socket);

  // A descriptor, or the negative errno.
  virtual int open();
  // Options of SOL_XDP. 0, or the errno; get() also says how much the kernel wrote.
  virtual int set(int socket, int option, const void* value, std::uint32_t bytes);
  virtual int get(int socket, int option, void* value, std::uint32_t& bytes);
  // A ring of the socket; null, and errno says why.
  virtual void* map(int socket, std::uint64_t page_offset, std::size_t bytes);
  virtual void unmap(void* ring, std::size_t bytes);
  // Kicks: the kernel looks at the TX ring, and at the fill ring. They never wait. 0, or the errno.
  virtual int send(int socket);
  virtual int receive(int socket);

  static QueueKernel& real();
};

}  // namespace sluice
