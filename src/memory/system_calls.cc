#include "memory/system_calls.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <limits>
#include <string>

#include "base/map_shared.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // Linux 6.1, include/uapi/asm-generic/mman-common.h
#endif

namespace sluice {

int SystemCalls::memfd_create(const char* name, unsigned flags) {
  return ::memfd_create(name, flags);
}

int SystemCalls::ftruncate(int fd, std::size_t bytes) {
  return ::ftruncate(fd, static_cast<off_t>(bytes));
}

int SystemCalls::fallocate(int fd, std::size_t bytes) {
  int result = 0;
  do {  // a signal that keeps coming ends this too: pages that were allocated stay so, each turn gets further
    result = ::fallocate(fd, 0, 0, static_cast<off_t>(bytes));
  } while (result < 0 && errno == EINTR);
  return result;
}

void* SystemCalls::mmap(std::size_t bytes, int protection, int fd) {
  return map_shared(fd, bytes, protection, MAP_POPULATE, 0);
}

int SystemCalls::collapse(int fd, std::size_t bytes) {
  bytes = bytes / kHugePageBytes * kHugePageBytes;
  void* data = map_shared(fd, bytes, PROT_READ | PROT_WRITE, 0, 0);
  if (data == MAP_FAILED) {
    return -1;
  }
  // Something must be there to be made larger. The less the faster: what is there is copied.
  int result = 0;
  for (std::size_t at = 0; at < bytes && result == 0; at += kHugePageBytes) {
    result = ::fallocate(fd, 0, static_cast<off_t>(at), 1);
  }
  if (result == 0) {
    result = ::madvise(data, bytes, MADV_COLLAPSE);
  }
  const int error = errno;
  ::munmap(data, bytes);
  errno = error;
  return result;
}

int SystemCalls::fchmod(int fd, unsigned mode) {
  return ::fchmod(fd, mode);
}

int SystemCalls::add_seals(int fd, int seals) {
  return ::fcntl(fd, F_ADD_SEALS, seals);
}

int SystemCalls::open_read_only(int fd) {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  return ::open(path, O_RDONLY | O_CLOEXEC);
}

std::size_t SystemCalls::available_bytes() {
  std::ifstream file("/proc/meminfo");
  std::string word;
  for (std::size_t kib = 0; file >> word;) {
    if (word == "MemAvailable:" && file >> kib) {
      return kib * 1024;
    }
  }
  return std::numeric_limits<std::size_t>::max();
}

SystemCalls& SystemCalls::real() {
  static SystemCalls calls;
  return calls;
}

}  // namespace sluice
