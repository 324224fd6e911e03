// Unix sockets: listening at a path, connecting to one, and who is at the other end.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <optional>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace sluice {

// What a listener is, besides its path.
struct UnixListenerOptions {
  mode_t mode = 0666;          // everybody may connect: the daemon judges each peer, and says why it refuses
  std::optional<gid_t> group;  // of the path; none: the process's
  int backlog = 64;
  // No descriptor can be sent to it or to a connection of it, where the kernel can refuse that (Linux 6.16).
  bool refuses_descriptors = false;
};

// A socket that listens at a path; the path goes with it.
class UnixListener {
 public:
  UnixListener() = default;
  UnixListener(UnixListener&&) noexcept = default;
  UnixListener& operator=(UnixListener&& other) noexcept;
  ~UnixListener() { reset(); }

  // `type`: SOCK_SEQPACKET or SOCK_STREAM; non-blocking. A path left behind by a daemon that died is taken
  // over; one that a living process listens on is an error. The folder may be another user's: whatever is
  // swapped in it meanwhile, no file but this socket gets another mode or group.
  static Result<UnixListener> at(const std::string& path, int type, const UnixListenerOptions& options = {});

  int fd() const { return socket_.get(); }
  explicit operator bool() const { return static_cast<bool>(socket_); }
  // Closes it, and removes the path if it is still ours: a daemon that was started in between may have put
  // its own there.
  void reset();
  // Removes the path, and hands over the socket, which is closed elsewhere.
  UniqueFd release();

 private:
  void remove_path();
  UniqueFd socket_;
  std::string path_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

// A non-blocking socket connected to the listener at `path`. An error when there is none or its queue is
// full.
Result<UniqueFd> connect_to_path(const std::string& path, int type);

// Who is at the other end, as of connect(2): SO_PEERCRED, unix(7).
Result<ucred> peer_credentials(int socket);

// True when its other end is gone. A socket that we have shut down both for reading and for writing always
// looks so: do not ask this of one.
bool hung_up(int socket);

// From here on nobody can send descriptors to this socket: their sendmsg(2) says EPERM. Accepted sockets have
// it from their listener. False: this kernel cannot (before Linux 6.16).
bool refuse_descriptors(int socket);
// Whether it can, asked once.
bool kernel_refuses_descriptors();

}  // namespace sluice
