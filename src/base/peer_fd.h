// PeerFd: a descriptor that a peer sent us. Not a UniqueFd: any call on it, close(2) among them, may be
// answered by whoever serves the file (FUSE), or wait for a peer (a TCP socket that lingers).
//
// So its kind is found out first, by calls that no file's server answers. Only shared memory and eventfds are
// kept. Everything else is closed where it was received: in a door (src/door/doors.h), a process that may
// wait (D8). The daemon takes descriptors from a checker alone, and the checker passes on only these kinds.
#pragma once

#include <cstdint>
#include <utility>

#include "base/fd_passing.h"

namespace sluice {

class PeerFd {
 public:
  enum class Kind : std::uint8_t {
    kNone,          // there is no descriptor
    kEventfd,       // eventfd(2)
    kSharedMemory,  // a memfd, or a file of tmpfs (/dev/shm)
    kHugePages,     // a file of hugetlbfs, memfds with MFD_HUGETLB among them
    kRefused,       // was something else, and is closed
  };

  PeerFd() = default;
  // Takes over `fd`. Closes a descriptor that is of none of the kinds above, and may then wait for as long as
  // the peer likes.
  static PeerFd take(ReceivedFd fd);
  // Stands for one that was closed elsewhere.
  static PeerFd refused();
  PeerFd(PeerFd&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), kind_(std::exchange(other.kind_, Kind::kNone)) {}
  PeerFd& operator=(PeerFd&& other) noexcept;
  // Never waits: the last reference to memory is dropped by the closer (base/closer.h), that to an eventfd
  // elsewhere (base/burial.h).
  ~PeerFd() { reset(); }

  int get() const { return fd_; }
  Kind kind() const { return kind_; }
  bool is_eventfd() const { return kind_ == Kind::kEventfd; }
  bool is_memory() const { return kind_ == Kind::kSharedMemory || kind_ == Kind::kHugePages; }
  void reset();

 private:
  int fd_ = -1;
  Kind kind_ = Kind::kNone;
};

// The kind of `fd`, asked in an order in which the kernel alone answers. fcntl(F_GETFL) comes first, then
// fcntl(F_GET_SEALS), which succeeds for files of shmem and hugetlbfs only (mm/memfd.c), and only then
// statfs(2). An eventfd is known by the name that /proc has for it, which no path can forge. kRefused: none
// of these.
PeerFd::Kind classify_peer_fd(int fd);

}  // namespace sluice
