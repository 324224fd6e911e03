// Burial: where descriptors go that a peer shares with us, and that may wait for it at their last close.
//
// Who closes the last reference to a file takes it out of every epoll set that watches it, under the lock of
// each (fs/eventpoll.c, eventpoll_release_file). A peer that has closed its own references can keep such a
// lock for as long as it likes: by a thread in epoll_wait(2) whose buffer is memory that a page fault waits
// for. So what a peer could have put into an epoll set is never closed last in this process (D8).
//
// Control thread.
#pragma once

#include <functional>

#include "base/fd.h"

namespace sluice {

// Hands `fd` on to a process that may wait. Where nobody has said to which, closes it: unit tests, doors.
void bury(UniqueFd fd);

// Says where to; an empty function: nowhere any more.
void bury_by(std::function<void(UniqueFd)> undertaker);

}  // namespace sluice
