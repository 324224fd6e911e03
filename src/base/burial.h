// Burial: closes descriptors that a peer shares with us, in a process that may wait for the peer.
//
// The last close of a file takes it out of every epoll set that watches it, under the lock of each
// (fs/eventpoll.c, eventpoll_release_file). A peer that has closed its own references can keep such a lock
// for as long as it likes: a thread of its waits in epoll_wait(2), whose buffer is memory that a page fault
// waits for. So this process never closes last a descriptor that a peer could have put into an epoll set
// (D8).
//
// Control thread.
#pragma once

#include <functional>

#include "base/fd.h"

namespace sluice {

// Hands `fd` on to a process that may wait. Closes it where no such process was named: unit tests, doors.
void bury(UniqueFd fd);

// Names the way to that process; an empty function takes it back.
void bury_by(std::function<void(UniqueFd)> undertaker);

}  // namespace sluice
