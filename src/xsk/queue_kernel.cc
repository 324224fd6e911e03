#include "xsk/queue_kernel.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "base/map_shared.h"

namespace sluice {

int QueueKernel::bind(int socket, const sockaddr_xdp& address) {
  return ::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ? 0 : errno;
}

void QueueKernel::close(int socket) {
  ::close(socket);
}

void QueueKernel::discard(int socket) {
  ::close(socket);
}

int QueueKernel::open() {
  const int fd = ::socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
  return fd < 0 ? -errno : fd;
}

int QueueKernel::set(int socket, int option, const void* value, std::uint32_t bytes) {
  return ::setsockopt(socket, SOL_XDP, option, value, bytes) == 0 ? 0 : errno;
}

int QueueKernel::get(int socket, int option, void* value, std::uint32_t& bytes) {
  socklen_t length = bytes;
  const int error = ::getsockopt(socket, SOL_XDP, option, value, &length) == 0 ? 0 : errno;
  bytes = length;
  return error;
}

void* QueueKernel::map(int socket, std::uint64_t page_offset, std::size_t bytes) {
  void* ring = map_shared(socket, bytes, PROT_READ | PROT_WRITE, 0, page_offset);
  return ring == MAP_FAILED ? nullptr : ring;
}

void QueueKernel::unmap(void* ring, std::size_t bytes) {
  ::munmap(ring, bytes);
}

int QueueKernel::send(int socket) {
  return ::sendto(socket, nullptr, 0, MSG_DONTWAIT, nullptr, 0) < 0 ? errno : 0;
}

int QueueKernel::receive(int socket) {
  return ::recvfrom(socket, nullptr, 0, MSG_DONTWAIT, nullptr, nullptr) < 0 ? errno : 0;
}

QueueKernel& QueueKernel::real() {
  static QueueKernel kernel;
  return kernel;
}

}  // namespace sluice
