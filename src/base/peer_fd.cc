#include "base/peer_fd.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <string_view>

#include "base/burial.h"
#include "base/closer.h"

namespace sluice {

namespace {

bool is_eventfd(int fd) {
  std::array<char, 32> path{}, name{};
  std::snprintf(path.data(), path.size(), "/proc/self/fd/%d", fd);
  const ssize_t length = ::readlink(path.data(), name.data(), name.size());
  return length > 0 &&
         std::string_view(name.data(), static_cast<std::size_t>(length)) == "anon_inode:[eventfd]";
}

}  // namespace

PeerFd::Kind classify_peer_fd(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || (flags & O_PATH) != 0) {
    return PeerFd::Kind::kRefused;
  }
  if (::fcntl(fd, F_GET_SEALS) >= 0) {
    struct statfs system;
    const bool huge = ::fstatfs(fd, &system) == 0 && system.f_type == HUGETLBFS_MAGIC;
    return huge ? PeerFd::Kind::kHugePages : PeerFd::Kind::kSharedMemory;
  }
  return is_eventfd(fd) ? PeerFd::Kind::kEventfd : PeerFd::Kind::kRefused;
}

PeerFd PeerFd::take(ReceivedFd received) {
  PeerFd taken;
  const int fd = number_of(received);
  if (fd < 0) {
    return taken;
  }
  taken.kind_ = classify_peer_fd(fd);
  if (taken.kind_ == Kind::kRefused) {
    ::close(fd);
  } else {
    taken.fd_ = fd;
  }
  return taken;
}

PeerFd PeerFd::refused() {
  PeerFd none;
  none.kind_ = Kind::kRefused;
  return none;
}

PeerFd& PeerFd::operator=(PeerFd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = std::exchange(other.fd_, -1);
    kind_ = std::exchange(other.kind_, Kind::kNone);
  }
  return *this;
}

void PeerFd::reset() {
  if (fd_ >= 0) {
    if (is_eventfd()) {
      bury(UniqueFd(fd_));
    } else {
      Closer::of_process().close(fd_);  // the last reference to memory frees all of it
    }
  }
  fd_ = -1;
  kind_ = Kind::kNone;
}

}  // namespace sluice
