#include "base/descriptors.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>
#include <iterator>
#include <system_error>

namespace sluice {

std::uint64_t descriptors_used() {
  struct stat folder;
  // Linux 6.2 says how many there are as the folder's size; before that it is 0, and they are counted.
  if (::stat("/proc/self/fd", &folder) == 0 && folder.st_size > 0) {
    return static_cast<std::uint64_t>(folder.st_size);
  }
  std::error_code failed;
  std::uint64_t count = 0;
  for (std::filesystem::directory_iterator each("/proc/self/fd", failed), end; !failed && each != end;
       each.increment(failed)) {
    ++count;
  }
  return count;
}

std::uint64_t descriptor_limit() {
  rlimit limit{};
  return ::getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : 0;
}

Result<void> need_descriptors(std::uint64_t count) {
  const std::uint64_t taken = descriptors_used() + kDescriptorsKept, limit = descriptor_limit();
  const std::uint64_t left = limit > taken ? limit - taken : 0;
  if (count > left) {
    return fail("needs {} descriptors, {} are left; raise LimitNOFILE", count, left);
  }
  return {};
}

}  // namespace sluice
