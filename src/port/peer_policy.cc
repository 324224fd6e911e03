#include "port/peer_policy.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <sstream>

#include "base/fd.h"
#include "base/unix_socket.h"

// Not in the headers of older kernels.
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace sluice {

namespace {

// A file of /proc, which is small; "" when it cannot be read.
std::string read_proc(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char text[8192];
  const ssize_t bytes = file ? ::read(file.get(), text, sizeof(text)) : 0;
  return {text, bytes > 0 ? static_cast<std::size_t>(bytes) : 0};
}

std::uint32_t number_in(const std::string& path, std::uint32_t otherwise) {
  const std::string text = read_proc(path);
  std::uint32_t number = otherwise;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

template <typename Id>
Result<void> check_ids(const std::vector<Id>& ids, std::string_view key, const char* map,
                       const char* overflow) {
  for (Id id : ids) {
    if (stands_for_strangers(id, read_proc(map), number_in(overflow, 65534))) {
      return fail(
          "{} names {}: in the daemon's user namespace everybody from outside of it looks like that; "
          "choose another one, or run the daemon outside",
          key, id);
    }
  }
  return {};
}

Result<UniqueFd> pidfd_of_peer(int socket) {
  int fd = -1;
  socklen_t bytes = sizeof(fd);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &bytes) < 0) {
    return fail_errno(errno, "cannot ask for the process that connected");
  }
  return UniqueFd(fd);
}

// The cgroup (v2) of the process that connected. Its number is good for as long as the process lives, so
// that it still lives is what is asked last.
std::optional<std::string> cgroup_of_peer(int socket, pid_t pid) {
  auto process = pidfd_of_peer(socket);
  if (!process || pid <= 0) {
    return std::nullopt;
  }
  const std::string text = read_proc(fmt::format("/proc/{}/cgroup", pid));
  pollfd ended{.fd = process->get(), .events = POLLIN, .revents = 0};
  if (::poll(&ended, 1, 0) != 0) {
    return std::nullopt;
  }
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("0::")) {
      return line.substr(3);
    }
  }
  return std::nullopt;
}

bool has_group(int socket, gid_t own, const std::vector<gid_t>& allowed) {
  auto listed = [&](gid_t gid) { return std::ranges::find(allowed, gid) != allowed.end(); };
  if (listed(own)) {
    return true;
  }
  std::vector<gid_t> groups(64);
  for (int tries = 0; tries < 2; ++tries) {
    socklen_t bytes = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &bytes) == 0) {
      groups.resize(bytes / sizeof(gid_t));
      return std::ranges::any_of(groups, listed);
    }
    if (errno != ERANGE) {
      return false;
    }
    groups.resize(bytes / sizeof(gid_t));  // the kernel says how many there are: at most 65536
  }
  return false;
}

bool user_is_allowed(int socket, const ucred& who, const PeerPolicy& policy) {
  if (policy.uids.empty() && policy.gids.empty()) {
    return policy.everybody || !policy.cgroup.empty() || who.uid == ::geteuid() || who.uid == 0;
  }
  return std::ranges::find(policy.uids, who.uid) != policy.uids.end() ||
         (!policy.gids.empty() && has_group(socket, who.gid, policy.gids));
}

}  // namespace

bool stands_for_strangers(std::uint32_t id, std::string_view map, std::uint32_t overflow) {
  // "inside outside count": the first namespace maps all there are onto themselves.
  std::istringstream line{std::string(map)};
  std::uint64_t inside = 1, outside = 1, count = 0;
  line >> inside >> outside >> count;
  const bool whole = inside == 0 && outside == 0 && count == 4294967295;
  return id == overflow && !whole && !map.empty();
}

bool cgroup_is_within(std::string_view path, std::string_view allowed) {
  return path.starts_with(allowed) &&
         (path.size() == allowed.size() || allowed.ends_with('/') || path[allowed.size()] == '/');
}

Result<void> check_policy(const PeerPolicy& policy) {
  SLUICE_TRY(check_ids(policy.uids, "allow_users", "/proc/self/uid_map", "/proc/sys/kernel/overflowuid"));
  SLUICE_TRY(check_ids(policy.gids, "allow_groups", "/proc/self/gid_map", "/proc/sys/kernel/overflowgid"));
  if (policy.cgroup.empty()) {
    return {};
  }
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
    return fail_errno(errno, "cannot make a pair of sockets");
  }
  UniqueFd one(ends[0]), other(ends[1]);
  if (auto process = pidfd_of_peer(one.get()); !process && process.error().os_errno == ENOPROTOOPT) {
    return fail("allow_cgroup needs Linux 6.5 or later (SO_PEERPIDFD); leave it out and use allow_users");
  }
  if (read_proc("/proc/self/cgroup").find("0::") == std::string::npos) {
    return fail("allow_cgroup needs cgroup v2 and /proc; leave it out and use allow_users");
  }
  return {};
}

Result<Peer> judge_peer(int socket, const PeerPolicy& policy, const std::string& port) {
  auto who = peer_credentials(socket);
  SLUICE_TRY(who);
  Peer peer{.who = *who, .refusal = {}};
  if (!user_is_allowed(socket, *who, policy)) {
    peer.refusal =
        policy.gids.empty()
            ? fmt::format("user {} is not in allow_users of port {}", who->uid, port)
            : fmt::format("user {} is in neither allow_users nor allow_groups of port {}", who->uid, port);
  } else if (!policy.cgroup.empty()) {
    const auto cgroup = cgroup_of_peer(socket, who->pid);
    if (!cgroup || !cgroup_is_within(*cgroup, policy.cgroup)) {
      peer.refusal =
          fmt::format("process {} is not in allow_cgroup of port {}, {}", who->pid, port, policy.cgroup);
    }
  }
  return peer;
}

}  // namespace sluice
