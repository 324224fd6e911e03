// The calls into the kernel that making an arena takes, as a table that is passed in: a test hands over one
// whose n-th call fails, and looks for what leaks.
#pragma once

#include <cstddef>

namespace sluice {

// Each as the call of its name: -1 (mmap: MAP_FAILED) and errno when it fails.
class SystemCalls {
 public:
  virtual ~SystemCalls() = default;
  virtual int memfd_create(const char* name, unsigned flags);
  virtual int ftruncate(int fd, std::size_t bytes);
  virtual int fallocate(int fd, std::size_t bytes);               // all of the file, EINTR retried
  virtual void* mmap(std::size_t bytes, int protection, int fd);  // map_shared(), MAP_POPULATE, from offset 0
  // Makes a new memfd of transparent huge pages as far as it has room for whole ones (MADV_COLLAPSE,
  // Linux 6.1). When it fails, a part of the memfd may be allocated, of either kind of pages.
  virtual int collapse(int fd, std::size_t bytes);
  virtual int fchmod(int fd, unsigned mode);
  virtual int add_seals(int fd, int seals);
  virtual int open_read_only(int fd);     // a new open file description of what `fd` is
  virtual std::size_t available_bytes();  // MemAvailable; the largest number when /proc does not say

  static SystemCalls& real();
};

}  // namespace sluice
