// What the two ends of a door's channel have in common (doors.h).
#pragma once

#include <sys/types.h>

#include <cerrno>
#include <cstddef>
#include <span>

namespace sluice {

// What `receive` returns. When the other end has gone without reading all, the kernel says so once, ahead of
// what that end had said (ECONNRESET): then it is asked again.
template <typename Receive>
ssize_t receive_also_after_reset(const Receive& receive) {
  const ssize_t got = receive();
  return got < 0 && errno == ECONNRESET ? receive() : got;
}

// A door's: one datagram for the daemon. Waits while the daemon has enough to read, which is how a flood is
// held back, and no longer than until it has said that the door is to end. False: it is, or the daemon is
// gone.
bool tell_daemon(int channel, std::span<const std::byte> bytes, std::span<const int> fds = {});

}  // namespace sluice
