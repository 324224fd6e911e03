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
  return ::mmap(nullptr, bytes, protection, MAP_SHARED | MAP_POPULATE, fd, 0);
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
