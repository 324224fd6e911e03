// How a process or thread gives up what it does not need: identity, capabilities, system calls. Each step is
// for good. Files: base/file_access.h.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"

namespace sluice {

// Runs as `id`, user and group, in no other group, with an empty bounding set of capabilities. Errors when
// the id cannot be had; nothing happens, and no error, when this process may not change it (it is not root).
Result<void> become(std::uint32_t id);

// No capability, and none to be had by exec (no_new_privs). Of the calling thread: before it makes others.
Result<void> drop_all_capabilities();

// A system call with one value of one argument (its lower 32 bits).
struct NarrowCall {
  std::string_view name;
  unsigned argument = 0;  // counted from 0
  std::uint32_t value = 0;
};

// From here on this thread, and those that it makes, may make these system calls alone; any other ends the
// process (SIGSYS). Names as of syscalls(2); one that this machine does not have is left out. Sanitizers make
// calls of their own: in builds with them nothing happens.
Result<void> allow_system_calls(std::span<const std::string_view> names,
                                std::span<const NarrowCall> narrow = {});

}  // namespace sluice
