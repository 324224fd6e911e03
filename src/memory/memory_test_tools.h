// For the tests of this folder: what a process holds, and system calls that fail on demand.
#pragma once

#include <dirent.h>
#include <sys/mman.h>

#include <cerrno>
#include <fstream>
#include <set>
#include <string>

#include "memory/system_calls.h"

namespace sluice::test {

// Descriptors and Sluice mappings of this process: equal before and after when nothing leaks.
struct Holdings {
  std::set<std::string> descriptors;
  int mappings = 0;
  bool operator==(const Holdings&) const = default;

  static Holdings now() {
    Holdings holdings;
    DIR* directory = ::opendir("/proc/self/fd");
    while (dirent* entry = ::readdir(directory)) {
      holdings.descriptors.insert(entry->d_name);
    }
    ::closedir(directory);
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      holdings.mappings += line.find("memfd:sluice-") != std::string::npos ? 1 : 0;
    }
    return holdings;
  }
};

// The real thing, but the n-th call (from 1) fails with `error` and does nothing.
class FailingCalls final : public SystemCalls {
 public:
  FailingCalls(int fail_at, int error) : fail_at_(fail_at), error_(error) {}
  int memfd_create(const char* name, unsigned flags) override {
    return fails() ? -1 : SystemCalls::memfd_create(name, flags);
  }
  int ftruncate(int fd, std::size_t bytes) override {
    return fails() ? -1 : SystemCalls::ftruncate(fd, bytes);
  }
  int fallocate(int fd, std::size_t bytes) override {
    return fails() ? -1 : SystemCalls::fallocate(fd, bytes);
  }
  void* mmap(std::size_t bytes, int protection, int fd) override {
    return fails() ? MAP_FAILED : SystemCalls::mmap(bytes, protection, fd);
  }
  int collapse(int fd, std::size_t bytes) override { return fails() ? -1 : SystemCalls::collapse(fd, bytes); }
  int fchmod(int fd, unsigned mode) override { return fails() ? -1 : SystemCalls::fchmod(fd, mode); }
  int add_seals(int fd, int seals) override { return fails() ? -1 : SystemCalls::add_seals(fd, seals); }
  int open_read_only(int fd) override { return fails() ? -1 : SystemCalls::open_read_only(fd); }

  bool failed() const { return calls_ >= fail_at_; }

 private:
  bool fails() {
    if (++calls_ == fail_at_) {
      errno = error_;
      return true;
    }
    return false;
  }
  int fail_at_;
  int error_;
  int calls_ = 0;
};

}  // namespace sluice::test
