// The undertaker: the door that closes sockets for the daemon (doors.h). It says one byte for each.
#pragma once

namespace sluice {

// The door's life: until the daemon closes the channel.
void run_undertaker(int channel);

}  // namespace sluice
