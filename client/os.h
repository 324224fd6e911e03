// Owners for descriptors and mappings of libsluice. src/base has the same with fmt behind it; a library that
// is linked into other people's programs brings no other library along.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "base/map_shared.h"
#include "sluice/sluice.hpp"

namespace sluice::inline v1::client {

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~Descriptor() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset(int fd = -1) {
    if (fd_ >= 0) {
      ::close(fd_);
    }
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

class Memory {
 public:
  Memory() = default;
  Memory(int fd, std::size_t bytes, int protection) : bytes_(bytes) {
    void* data = map_shared(fd, bytes, protection, 0, 0);
    data_ = data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
  }
  Memory(Memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory() {
    if (data_ != nullptr) {
      ::munmap(data_, bytes_);
    }
  }

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

inline Error error(ErrorCode code, std::string message) {
  return Error{code, std::move(message)};
}
inline Error system_error(std::string what, int os_errno = errno) {
  return Error{ErrorCode::kSystem, std::move(what) + ": " + std::strerror(os_errno)};
}

}  // namespace sluice::inline v1::client
