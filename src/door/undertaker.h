// The undertaker: the door that closes sockets for the daemon (doors.h). It says one byte for each datagram
// of them. One that waits is killed, and a process that ends waits for no socket that lingers.
#pragma once

#include <cstddef>

namespace sluice {

// In one datagram, at most. A socket of this kind takes ten datagrams (net.unix.max_dgram_qlen).
inline constexpr std::size_t kMostBuriedAtOnce = 64;

// The door's life: until the daemon closes the channel.
void run_undertaker(int channel);

}  // namespace sluice
