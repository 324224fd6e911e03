// The zygote: the process that makes doors (doors.h). It is started before the daemon has threads, memory or
// NICs to inherit. It gives up every privilege, then forks a door for each request. Doors inherit its user,
// which nobody else has, and its list of system calls.
#pragma once

#include <cstdint>

#include "door/doors.h"

namespace sluice {

// What the daemon says on the zygote's socket (SOCK_SEQPACKET), one datagram each.
struct ZygoteRequest {
  enum class What : std::uint32_t {
    kOpen,  // with two descriptors: the door's end of its channel, and the peer (of an undertaker or a
            // checker: none)
    kKill,  // the door of this id, by SIGKILL
  } what = What::kOpen;
  DoorKind kind = DoorKind::kGuest;
  std::uint32_t id = 0;
};

// The descriptor by which the zygote is spoken to, in its process.
inline constexpr int kZygoteSocket = 3;

// Doors and the zygote run as this user and group, which no user database names: nobody else's process can
// signal or trace them, and they own nothing. Where it cannot be had (a user namespace without it): nobody's.
inline constexpr std::uint32_t kDoorUser = 1'936'485'379;

// What a door does; returns when it is done. `peer` is -1 for an undertaker and a checker.
using RunDoor = void (*)(DoorKind kind, int channel, int peer);

// The zygote's whole life, in its process: gives up privileges, serves requests until the daemon is gone. An
// error is why it could not start.
Result<void> run_zygote(RunDoor run_door);

}  // namespace sluice
