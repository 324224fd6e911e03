#include "base/unix_socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "base/folder.h"

namespace sluice {

namespace {

// Not in the headers of older kernels.
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return fail("socket path '{}' has {} bytes; 1 .. {} are possible", path, path.size(),
                sizeof(address.sun_path) - 1);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

const sockaddr* generic(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

UniqueFd make_socket(int type) {
  return UniqueFd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

// Where a path leads: its folder, held open, and its name there.
struct Place {
  std::string path;
  UniqueFd folder;
  std::string name;
};

Result<Place> place_of(const std::string& path) {
  SLUICE_TRY(address_of(path));  // it must fit: others connect by it
  const std::size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  auto opened = open_folder(folder);
  if (!opened) {
    return with_context(fmt::format("cannot make the socket {}", path), std::move(opened.error()));
  }
  return Place{path, std::move(*opened), path.substr(slash == std::string::npos ? 0 : slash + 1)};
}

// One file of a folder, as an O_PATH descriptor: a path of its own that nobody can swap.
UniqueFd pin(int folder, const std::string& name) {
  return UniqueFd(::openat(folder, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
}

std::string pinned_path(int fd) {
  return fmt::format("/proc/self/fd/{}", fd);
}

enum class Found : std::uint8_t { kNothing, kStaleSocket };

// What stands at the place may be replaced: nothing, or a socket that nobody listens on.
Result<Found> look_at(const Place& place, int type) {
  UniqueFd there = pin(place.folder.get(), place.name);
  if (!there) {
    if (errno == ENOENT) {
      return Found::kNothing;
    }
    return fail_errno(errno, "cannot look at the socket {}", place.path);
  }
  struct stat status{};
  if (::fstat(there.get(), &status) < 0 || !S_ISSOCK(status.st_mode)) {
    return fail("{} exists and is not a socket; remove it or choose another path", place.path);
  }
  auto address = SLUICE_TRY(address_of(pinned_path(there.get())));
  UniqueFd probe = make_socket(type);
  if (::connect(probe.get(), generic(address), sizeof(address)) == 0 || errno == EAGAIN ||
      errno == EPROTOTYPE) {
    return fail("{} is in use: another process listens on it; stop it or choose another path", place.path);
  }
  if (errno != ECONNREFUSED) {
    return fail_errno(errno, "cannot tell whether a process listens on {}", place.path);
  }
  return Found::kStaleSocket;
}

// Removes a name of the folder unless it is moved to its place.
class StagedName {
 public:
  explicit StagedName(int folder) : folder_(folder), name_(fmt::format(".sluice-{}", ::getpid())) {
    ::unlinkat(folder_, name_.c_str(), 0);  // of a process of this number that died
  }
  ~StagedName() {
    if (!name_.empty()) {
      ::unlinkat(folder_, name_.c_str(), 0);
    }
  }
  StagedName(const StagedName&) = delete;
  const std::string& name() const { return name_; }
  // `replaces`: what stands there goes in the same step. Else nothing may stand there.
  bool move_to(const std::string& to, bool replaces) {
    const bool moved =
        ::renameat2(folder_, name_.c_str(), folder_, to.c_str(), replaces ? 0 : RENAME_NOREPLACE) == 0 ||
        // a file system that cannot do it exclusively
        (!replaces && errno == EINVAL && ::renameat(folder_, name_.c_str(), folder_, to.c_str()) == 0);
    if (moved) {
      name_.clear();
    }
    return moved;
  }

 private:
  const int folder_;
  std::string name_;
};

// Linux takes the mode of the path from that of the socket at bind(2), without what the umask takes away. So
// it is never more open than in the end, and what is missing is added on the file itself, which is known to
// be a socket that this process's user has made: never by a name that somebody may have swapped.
Result<void> set_access(int staged, const UnixListenerOptions& options) {
  struct stat status{};
  if (::fstat(staged, &status) < 0 || !S_ISSOCK(status.st_mode) || status.st_uid != ::geteuid() ||
      status.st_nlink != 1) {
    return fail("somebody else put another file in its place");
  }
  if (options.group && status.st_gid != *options.group &&
      ::fchownat(staged, "", static_cast<uid_t>(-1), *options.group, AT_EMPTY_PATH) < 0) {
    return fail_errno(errno, "cannot give it to group {}", *options.group);
  }
  if ((status.st_mode & 07777) != options.mode && ::chmod(pinned_path(staged).c_str(), options.mode) < 0) {
    return fail_errno(errno, "cannot set its mode (is /proc mounted?)");
  }
  return {};
}

}  // namespace

UnixListener& UnixListener::operator=(UnixListener&& other) noexcept {
  if (this != &other) {
    reset();
    socket_ = std::move(other.socket_);
    path_ = std::move(other.path_);
    device_ = other.device_;
    inode_ = other.inode_;
  }
  return *this;
}

// The socket is made under another name and moved to its own when it has its mode and takes connections:
// nobody finds it half made, and that of a dead daemon is replaced in one step.
Result<UnixListener> UnixListener::at(const std::string& path, int type, const UnixListenerOptions& options) {
  auto place = SLUICE_TRY(place_of(path));
  const int folder = place.folder.get();
  auto found = SLUICE_TRY(look_at(place, type));
  UniqueFd socket = make_socket(type);
  if (!socket) {
    return fail_errno(errno, "cannot make a socket");
  }
  if (options.refuses_descriptors) {
    (void)refuse_descriptors(socket.get());
  }
  StagedName staged(folder);
  auto address = SLUICE_TRY(address_of(fmt::format("{}/{}", pinned_path(folder), staged.name())));
  ::fchmod(socket.get(), options.group ? options.mode & 0700 : options.mode);
  if (::bind(socket.get(), generic(address), sizeof(address)) < 0) {
    return fail_errno(errno, "cannot make the socket {}", path);
  }
  UniqueFd made = pin(folder, staged.name());
  struct stat status{};
  if (auto set = set_access(made.get(), options); !set) {
    return with_context(fmt::format("cannot make the socket {}", path), std::move(set.error()));
  }
  if (::fstat(made.get(), &status) < 0 || ::listen(socket.get(), options.backlog) < 0) {
    return fail_errno(errno, "cannot listen on {}", path);
  }
  if (!staged.move_to(place.name, found == Found::kStaleSocket)) {
    if (errno == EEXIST) {
      return fail("{} is in use: another process has just made it; choose another path", path);
    }
    return fail_errno(errno, "cannot put the socket at {}", path);
  }
  UnixListener listener;
  listener.socket_ = std::move(socket);
  listener.path_ = path;
  listener.device_ = status.st_dev;
  listener.inode_ = status.st_ino;
  return listener;
}

void UnixListener::reset() {
  if (socket_) {
    remove_path();
    socket_.reset();
  }
}

UniqueFd UnixListener::release() {
  if (socket_) {
    remove_path();
  }
  return std::move(socket_);
}

void UnixListener::remove_path() {
  auto place = place_of(path_);
  struct stat now{};
  if (place && ::fstatat(place->folder.get(), place->name.c_str(), &now, AT_SYMLINK_NOFOLLOW) == 0 &&
      now.st_dev == device_ && now.st_ino == inode_) {
    ::unlinkat(place->folder.get(), place->name.c_str(), 0);
  }
}

Result<UniqueFd> connect_to_path(const std::string& path, int type) {
  auto address = SLUICE_TRY(address_of(path));
  UniqueFd socket = make_socket(type);
  if (!socket) {
    return fail_errno(errno, "cannot make a socket");
  }
  if (::connect(socket.get(), generic(address), sizeof(address)) < 0) {
    return fail_errno(errno, "cannot connect to {}", path);
  }
  return socket;
}

Result<ucred> peer_credentials(int socket) {
  ucred credentials{};
  socklen_t bytes = sizeof(credentials);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) < 0) {
    return fail_errno(errno, "cannot ask who connected");
  }
  return credentials;
}

bool hung_up(int socket) {
  pollfd state{.fd = socket, .events = 0, .revents = 0};
  return ::poll(&state, 1, 0) > 0 && (state.revents & (POLLHUP | POLLERR)) != 0;
}

bool refuse_descriptors(int socket) {
  const int off = 0;
  return ::setsockopt(socket, SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof(off)) == 0;
}

bool kernel_refuses_descriptors() {
  static const bool refuses = [] {
    const UniqueFd socket = make_socket(SOCK_STREAM);
    return socket && refuse_descriptors(socket.get());
  }();
  return refuses;
}

}  // namespace sluice
