#include "base/folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <ranges>
#include <string_view>
#include <vector>

namespace sluice {

namespace {

constexpr int kMostLinks = 40;  // as the kernel's MAXSYMLINKS

// The parts of `path` go on top of `left`, the first one last.
void push_parts(std::string_view path, std::vector<std::string>& left) {
  const std::size_t below = left.size();
  for (const auto part : std::views::split(path, '/')) {
    std::string_view text(part.begin(), part.end());
    if (!text.empty() && text != ".") {
      left.emplace_back(text);
    }
  }
  std::reverse(left.begin() + static_cast<std::ptrdiff_t>(below), left.end());
}

UniqueFd open_start(std::string_view path) {
  return UniqueFd(::open(path.starts_with('/') ? "/" : ".", O_PATH | O_DIRECTORY | O_CLOEXEC));
}

bool is_trusted(uid_t owner) {
  return owner == 0 || owner == ::geteuid();
}

}  // namespace

Result<UniqueFd> open_folder(const std::string& path) {
  std::vector<std::string> left;
  push_parts(path, left);
  UniqueFd at = open_start(path);
  for (int links = 0; at && !left.empty();) {
    const std::string part = std::move(left.back());
    left.pop_back();
    UniqueFd next(::openat(at.get(), part.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat status{};
    if (!next || ::fstat(next.get(), &status) < 0) {
      return fail_errno(errno, "cannot open the folder {}", path);
    }
    if (!S_ISLNK(status.st_mode)) {
      at = std::move(next);
      continue;
    }
    if (!is_trusted(status.st_uid)) {
      return fail("{} leads through {}, a symbolic link of user {}; write the path without it", path, part,
                  status.st_uid);
    }
    char target[PATH_MAX];
    const ssize_t bytes = ::readlinkat(next.get(), "", target, sizeof(target));
    if (bytes < 0 || ++links > kMostLinks) {
      return fail_errno(bytes < 0 ? errno : ELOOP, "cannot open the folder {}", path);
    }
    const std::string_view text(target, static_cast<std::size_t>(bytes));
    push_parts(text, left);
    if (text.starts_with('/')) {
      at = open_start(text);
    }
  }
  struct stat status{};
  if (!at || ::fstat(at.get(), &status) < 0) {
    return fail_errno(errno, "cannot open the folder {}", path);
  }
  if (!S_ISDIR(status.st_mode)) {
    return fail("{} is not a folder", path);
  }
  return at;
}

std::string others_who_write(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) < 0) {
    return {};
  }
  if (!is_trusted(status.st_uid)) {
    return fmt::format("user {}", status.st_uid);
  }
  // With the sticky bit nobody takes away what another has made.
  if ((status.st_mode & S_ISVTX) != 0) {
    return {};
  }
  if ((status.st_mode & S_IWOTH) != 0) {
    return "everybody";
  }
  return (status.st_mode & S_IWGRP) != 0 && status.st_gid != 0 ? fmt::format("group {}", status.st_gid) : "";
}

}  // namespace sluice
