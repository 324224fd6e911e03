#include "base/fd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "base/map_shared.h"

namespace sluice {

void UniqueFd::reset(int fd) {
  if (fd_ >= 0) {
    ::close(fd_);  // never retried: Linux has closed it even when it reports EINTR (close(2))
  }
  fd_ = fd;
}

Result<UniqueFd> UniqueFd::duplicate() const {
  int fd = ::fcntl(fd_, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) {
    return fail_errno(errno, "cannot duplicate descriptor {}", fd_);
  }
  return UniqueFd(fd);
}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  if (this != &other) {
    reset();
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

Result<Mapping> Mapping::map(int fd, std::size_t bytes, int protection, std::size_t offset) {
  void* data = map_shared(fd, bytes, protection, 0, offset);
  if (data == MAP_FAILED) {
    return fail_errno(errno, "cannot map {} bytes at offset {} of descriptor {}", bytes, offset, fd);
  }
  return adopt(data, bytes);
}

Mapping Mapping::adopt(void* data, std::size_t bytes) {
  Mapping mapping;
  mapping.data_ = data;
  mapping.bytes_ = bytes;
  return mapping;
}

void Mapping::reset() {
  if (data_ != nullptr) {
    ::munmap(data_, bytes_);
    data_ = nullptr;
    bytes_ = 0;
  }
}

}  // namespace sluice
