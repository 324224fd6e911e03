#include "port/app/kept_memory.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

namespace sluice {

namespace {

bool is_kept(const UniqueFd& file) {
  if (::fcntl(file.get(), F_SETLEASE, F_WRLCK) == 0) {
    ::fcntl(file.get(), F_SETLEASE, F_UNLCK);
    return false;
  }
  return errno == EAGAIN;
}

}  // namespace

Result<UniqueFd> reopen(int fd, int flags) {
  UniqueFd fresh(::open(fmt::format("/proc/self/fd/{}", fd).c_str(), flags | O_CLOEXEC));
  if (!fresh) {
    return fail_errno(errno, "cannot open /proc/self/fd/{} (is /proc mounted?)", fd);
  }
  return fresh;
}

void KeptMemory::add(std::vector<UniqueFd> files) {
  session_bytes_ = 0;
  std::vector<File>& session = sessions_.emplace_back();
  for (UniqueFd& fd : files) {
    struct stat status{};
    const std::uint64_t bytes =
        ::fstat(fd.get(), &status) == 0 ? static_cast<std::uint64_t>(status.st_size) : 0;
    session_bytes_ += bytes;
    session.push_back({std::move(fd), bytes});
  }
}

KeptMemory::Kept KeptMemory::look() {
  Kept kept{.session_bytes = session_bytes_};
  for (std::vector<File>& session : sessions_) {
    std::erase_if(session, [](const File& file) { return !is_kept(file.fd); });
    for (const File& file : session) {
      kept.bytes += file.bytes;
    }
  }
  std::erase_if(sessions_, [](const std::vector<File>& session) { return session.empty(); });
  kept.sessions = sessions_.size();
  return kept;
}

}  // namespace sluice
