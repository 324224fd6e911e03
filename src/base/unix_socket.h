// Unix sockets of ports: listening at a path, connecting to one, and who is at the other end.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace sluice {

// A socket that listens at a path; the path goes with it.
class UnixListener {
 public:
  UnixListener() = default;
  UnixListener(UnixListener&&) noexcept = default;
  UnixListener& operator=(UnixListener&& other) noexcept;
  ~UnixListener() { reset(); }

  // `type`: SOCK_SEQPACKET or SOCK_STREAM; non-blocking. Everybody may connect: peers are judged by
  // peer_credentials(). A path left behind by a daemon that died is taken over; one that a living process
  // listens on is an error.
  static Result<UnixListener> at(const std::string& path, int type);

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

// A non-blocking socket connected to who listens at `path`; an error when nobody does or its queue is full.
Result<UniqueFd> connect_to_path(const std::string& path, int type);

// No descriptors can be sent to this socket, nor to those that it accepts from here on: the sender gets EPERM
// (SO_PASSRIGHTS, Linux 6.16). False: the kernel does not know this, and they can.
bool refuse_descriptors(int socket);

// Who is at the other end, as of connect(2): SO_PEERCRED, unix(7).
Result<ucred> peer_credentials(int socket);

}  // namespace sluice
