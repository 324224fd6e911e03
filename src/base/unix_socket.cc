#include "base/unix_socket.h"

#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace sluice {

namespace {

constexpr int kBacklog = 64;

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

UniqueFd make_socket(int type) {
  return UniqueFd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

// Removes a socket that nobody listens on any more.
Result<void> remove_stale(const std::string& path, const sockaddr_un& address, int type) {
  struct stat status;
  if (::lstat(path.c_str(), &status) < 0) {
    return {};  // nothing there; bind says so if something is wrong with the directory
  }
  if (!S_ISSOCK(status.st_mode)) {
    return fail("{} exists and is not a socket; remove it or choose another path", path);
  }
  UniqueFd probe = make_socket(type);
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ||
      errno == EAGAIN || errno == EPROTOTYPE) {
    return fail("{} is in use: another process listens on it", path);
  }
  if (::unlink(path.c_str()) < 0) {
    return fail_errno(errno, "cannot remove the stale socket {}", path);
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

Result<UnixListener> UnixListener::at(const std::string& path, int type) {
  auto address = address_of(path);
  if (!address) {
    return std::unexpected(std::move(address.error()));
  }
  SLUICE_TRY(remove_stale(path, *address, type));
  UniqueFd socket = make_socket(type);
  if (!socket) {
    return fail_errno(errno, "cannot make a socket");
  }
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) < 0) {
    return fail_errno(errno, "cannot make the socket {}", path);
  }
  // Everybody may connect: peers are judged by SO_PEERCRED, and get a sentence instead of EACCES.
  struct stat status;
  if (::chmod(path.c_str(), 0666) < 0 || ::listen(socket.get(), kBacklog) < 0 ||
      ::lstat(path.c_str(), &status) < 0) {
    int why = errno;
    ::unlink(path.c_str());
    return fail_errno(why, "cannot listen on {}", path);
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
  struct stat now;
  if (::lstat(path_.c_str(), &now) == 0 && now.st_dev == device_ && now.st_ino == inode_) {
    ::unlink(path_.c_str());
  }
}

Result<UniqueFd> connect_to_path(const std::string& path, int type) {
  auto address = address_of(path);
  if (!address) {
    return std::unexpected(std::move(address.error()));
  }
  UniqueFd socket = make_socket(type);
  if (!socket) {
    return fail_errno(errno, "cannot make a socket");
  }
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) < 0) {
    return fail_errno(errno, "cannot connect to {}", path);
  }
  return socket;
}

bool refuse_descriptors(int socket) {
#if !defined(SO_PASSRIGHTS)
  constexpr int SO_PASSRIGHTS = 83;  // include/uapi/asm-generic/socket.h
#endif
  const int off = 0;
  return ::setsockopt(socket, SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof off) == 0;
}

Result<ucred> peer_credentials(int socket) {
  ucred credentials{};
  socklen_t bytes = sizeof(credentials);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) < 0) {
    return fail_errno(errno, "cannot ask who connected");
  }
  return credentials;
}

}  // namespace sluice
