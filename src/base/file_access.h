// What a process may still do with files: landlock(7), a wall that the kernel keeps. Each step is for good,
// and for this thread and those that it makes from then on.
#pragma once

#include <span>

#include "base/result.h"

namespace sluice {

// No file can be opened, made, renamed or removed by path. Nothing happens, and no error, on kernels without
// landlock, as before Linux 5.13.
Result<void> deny_files();

// No file can be written, made or run by path, but `writable`, as far as they exist. Files can be read;
// sockets can be made, and names removed: for those of sockets. Without landlock nothing happens, and false.
// What has no path of its own, as a memfd, is nobody's concern here.
Result<bool> deny_writing(std::span<const char* const> writable);

}  // namespace sluice
