#include "door/undertaker.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <iterator>
#include <span>
#include <vector>

#include "base/fd_passing.h"
#include "door/channel.h"

namespace sluice {

void run_undertaker(int channel) {
  std::vector<int> kept;
  std::size_t datagrams = 0;  // that brought them
  for (;;) {
    char byte = 0;
    alignas(cmsghdr) std::byte control[CMSG_SPACE(kMostBuriedAtOnce * sizeof(int))];
    iovec bytes{&byte, 1};
    msghdr header{};
    header.msg_iov = &bytes;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    const ssize_t got = ::recvmsg(channel, &header, MSG_CMSG_CLOEXEC);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      return;
    }
    const auto fds = received_fds(header);
    if (!fds.empty()) {
      std::ranges::transform(fds, std::back_inserter(kept), number_of);
      ++datagrams;
      continue;
    }
    for (int fd : kept) {
      ::close(fd);  // with all that waits in it: this may take for ever
    }
    kept.clear();
    for (; datagrams > 0; --datagrams) {
      if (!tell_daemon(channel, std::as_bytes(std::span(&byte, 1)))) {
        return;
      }
    }
  }
}

}  // namespace sluice
