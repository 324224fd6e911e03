#include "port/app/kept_memory.h"

#include <fcntl.h>

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

std::size_t KeptMemory::count() {
  std::erase_if(sessions_,
                [](const std::vector<UniqueFd>& files) { return std::ranges::none_of(files, is_kept); });
  return sessions_.size();
}

}  // namespace sluice
