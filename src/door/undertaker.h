// The undertaker: the door that closes descriptors for the daemon (doors.h).
//
//   daemon -> undertaker   a datagram with descriptors: keep them
//                          one without: the daemon has closed its own of all these, close them
//   undertaker -> daemon   a byte for each datagram whose descriptors are closed
//
// In this order the daemon never has the last reference, however fast the undertaker is. An undertaker that
// waits is killed: the end of a process does not wait for a socket that lingers.
#pragma once

#include <cstddef>

namespace sluice {

// In one datagram, at most. A socket of this kind takes ten datagrams (net.unix.max_dgram_qlen).
inline constexpr std::size_t kMostBuriedAtOnce = 64;

// The door's life: until the daemon closes the channel.
void run_undertaker(int channel);

}  // namespace sluice
