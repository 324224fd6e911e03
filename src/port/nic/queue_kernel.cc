#include "port/nic/queue_kernel.h"

#include <sys/socket.h>

#include <cerrno>

namespace sluice {

namespace {

class RealQueueKernel final : public QueueKernel {
 public:
  int bind(int socket, const sockaddr_xdp& address) override {
    return ::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ? 0 : errno;
  }
  void close(UniqueFd socket) override { socket.reset(); }
};

}  // namespace

QueueKernel& QueueKernel::real() {
  static RealQueueKernel kernel;
  return kernel;
}

}  // namespace sluice
