#include "door/channel.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

#include "base/fd_passing.h"

namespace sluice {

bool tell_daemon(int channel, std::span<const std::byte> bytes, std::span<const int> fds) {
  while (send_with_fds(channel, bytes, fds, MSG_DONTWAIT) < 0) {
    if (errno != EAGAIN && errno != EINTR) {
      return false;
    }
    pollfd state{.fd = channel, .events = POLLOUT | POLLRDHUP, .revents = 0};
    if (::poll(&state, 1, -1) < 0 && errno != EINTR) {
      return false;
    }
    if ((state.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0) {
      return false;
    }
  }
  return true;
}

}  // namespace sluice
