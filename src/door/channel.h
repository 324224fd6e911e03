// What the two ends of a door's channel have in common (doors.h).
#pragma once

#include <sys/types.h>

#include <cerrno>
#include <cstddef>
#include <span>

namespace sluice {

// A door's: one datagram for the daemon. Waits while the daemon has enough to read, which is how a flood is
// held back, and no longer than until it has said that the door is to end. False: it is, or the daemon is
// gone.
bool tell_daemon(int channel, std::span<const std::byte> bytes, std::span<const int> fds = {});

}  // namespace sluice
