// What a process and each of its threads keep of their privileges once they have begun: capabilities and
// system calls. Each step is for good. docs/privileges.md has the whole table.
//
//   main thread   confine_process()   keeps what control needs later: a new NIC, new rules, a tap
//   each thread   confine_thread()    keeps no capability, and the system calls of its kind alone
//
// A call that is not allowed is not carried out: the process says which it was, and ends.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"

namespace sluice {

enum class ThreadKind : std::uint8_t {
  kControl,    // the main thread
  kWorker,     // packets; touches the memory of apps and guests
  kHaltpoll,   // keeps a core awake
  kCloser,     // drops memory and descriptors
  kWatch,      // looks whether workers move
  kPopulator,  // faults memory of guests in
  kNicHelper,  // binds and closes the sockets of NICs' queues
  kWaker,      // wakes apps and guests that are dear to wake
  kMaker,      // makes the memory of apps' sessions, and seals it
};

std::string_view name_of(ThreadKind kind);

// The system calls of a kind, by the names of syscalls(2).
std::span<const std::string_view> calls_of(ThreadKind kind);

// Capabilities of this process that control keeps, where the process has them at all (<linux/capability.h>).
std::span<const int> kept_capabilities();

// Once, on the main thread, before it makes others, after everything that needs more. Files are read from
// then on, and none written but /dev/net/tun, where the kernel has landlock. Raises RLIMIT_MEMLOCK as far as
// it may, so that CAP_IPC_LOCK can go with the rest; a process that may not raise it keeps that one.
Result<void> confine_process();

// First thing, or last thing of its preparation, on a thread that is to be confined. Does nothing in a
// process that is not: unit tests, and a daemon that was told so.
Result<void> confine_thread(ThreadKind kind);

}  // namespace sluice
