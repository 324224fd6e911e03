// Shared mappings that huge pages fit; a header without a library, because libsluice has it too.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace sluice {

inline constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

// mmap(2) with MAP_SHARED and `flags`, from `offset`; MAP_FAILED and errno as there. What is as large as a
// huge page begins at an address that is a multiple of one, so that the kernel can map huge pages of the file
// whole.
inline void* map_shared(int fd, std::size_t bytes, int protection, int flags, std::size_t offset) {
  flags |= MAP_SHARED;
  if (bytes < kHugePageBytes || bytes > SIZE_MAX - 2 * kHugePageBytes) {
    return ::mmap(nullptr, bytes, protection, flags, fd, static_cast<off_t>(offset));
  }
  // Reserves room for the mapping and for the way to the next multiple, and gives the rest back.
  const std::size_t room = bytes + kHugePageBytes;
  void* reserved = ::mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) {
    return MAP_FAILED;
  }
  const auto begin = reinterpret_cast<std::uintptr_t>(reserved);
  const std::uintptr_t at = (begin + kHugePageBytes - 1) & ~(kHugePageBytes - 1);
  void* data = ::mmap(reinterpret_cast<void*>(at), bytes, protection, flags | MAP_FIXED, fd,
                      static_cast<off_t>(offset));
  const int error = errno;
  if (data == MAP_FAILED) {
    ::munmap(reserved, room);
    errno = error;
    return MAP_FAILED;
  }
  // The mapping ends with a page: so does its part of the room.
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::uintptr_t end = at + (bytes + page - 1) / page * page;
  if (at != begin) {
    ::munmap(reserved, at - begin);
  }
  if (end != begin + room) {
    ::munmap(reinterpret_cast<void*>(end), begin + room - end);
  }
  return data;
}

}  // namespace sluice
