// KeptMemory: what programs keep of sessions that are over.
//
// A session's memory goes with it (D2), but a program that keeps a descriptor or a mapping keeps the pages
// allocated, and nobody can take them away: the seals that protect readers (D4) forbid to punch or shrink the
// file. So the port counts such sessions and takes no new one when they are too many, or have more memory
// together than one session has (D6): so a port never pins more than its session's memory twice.
//
// Whether anybody still has a file open, or mapped, is what a write lease tells (fcntl(2), F_SETLEASE): the
// kernel grants it only when no other open file of that inode is left (fs/locks.c, check_conflicting_open).
// That counts open(2)s and not what memfd_create(2) returned, so a program is given reopened descriptors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace sluice {

// Ended sessions of one port whose memory may be kept. libsluice keeps a session's while its program holds
// packets of it.
inline constexpr std::size_t kMaxKeptSessions = 8;

// The same file opened anew; `flags` as of open(2): O_RDONLY or O_RDWR.
Result<UniqueFd> reopen(int fd, int flags);

class KeptMemory {
 public:
  struct Kept {
    std::size_t sessions = 0;
    std::uint64_t bytes = 0;          // of the files that are kept; a session may be kept in part
    std::uint64_t session_bytes = 0;  // of the last one, whole
    bool too_much() const { return sessions >= kMaxKeptSessions || bytes > session_bytes; }
  };
  // A session that is over: one descriptor, opened O_RDONLY by us, of each file that it gave away.
  void add(std::vector<UniqueFd> files);
  // Looks again and forgets what nobody keeps. Where the kernel gives no lease on a memfd none is counted.
  Kept look();

 private:
  struct File {
    UniqueFd fd;
    std::uint64_t bytes = 0;
  };
  std::vector<std::vector<File>> sessions_;
  std::uint64_t session_bytes_ = 0;
};

}  // namespace sluice
