#include "door/channel.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

#include "base/fd_passing.h"

namespace sluice {

namespace {

// The kernel counts descriptors under way per user, and all doors are one user (unix(7), ETOOMANYREFS). When
// another door has used the limit up, this waits until that door has ended.
constexpr int kRetryMs = 20;

}  // namespace

bool tell_daemon(int channel, std::span<const std::byte> bytes, std::span<const int> fds) {
  while (send_with_fds(channel, bytes, fds, MSG_DONTWAIT) < 0) {
    const bool too_many_under_way = errno == ETOOMANYREFS;
    if (errno != EAGAIN && errno != EINTR && !too_many_under_way) {
      return false;
    }
    const short room = too_many_under_way ? short{0} : short{POLLOUT};
    pollfd state{.fd = channel, .events = static_cast<short>(room | POLLRDHUP), .revents = 0};
    if (::poll(&state, 1, too_many_under_way ? kRetryMs : -1) < 0 && errno != EINTR) {
      return false;
    }
    if ((state.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0) {
      return false;
    }
  }
  return true;
}

}  // namespace sluice
