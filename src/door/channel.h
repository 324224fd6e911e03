// What the two ends of a door's channel have in common (doors.h).
#pragma once

#include <sys/types.h>

#include <cerrno>
#include <cstddef>
#include <span>

namespace sluice {

// For a door: sends one datagram to the daemon. It waits while the daemon has enough to read, which holds a
// flood back, until the daemon says that the door is to end. False: the door is to end, or the daemon is
// gone.
bool tell_daemon(int channel, std::span<const std::byte> bytes, std::span<const int> fds = {});

}  // namespace sluice
