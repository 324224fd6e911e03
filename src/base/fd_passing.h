// Descriptors that travel with bytes over a Unix socket (SCM_RIGHTS, unix(7)).
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

// One sendmsg(2) with MSG_NOSIGNAL and `flags`; its result, and errno.
ssize_t send_with_fds(int socket, std::span<const std::byte> bytes, std::span<const int> fds, int flags);

// A descriptor that came with a message. Not an int, so that no UniqueFd takes it by mistake: the daemon
// makes a PeerFd of it, a process that may wait asks for its number.
enum class ReceivedFd : int {};
constexpr int number_of(ReceivedFd fd) {
  return static_cast<int>(fd);
}

// The descriptors of a message that recvmsg(2) has taken. From here on the receiver owns them and closes
// them.
std::vector<ReceivedFd> received_fds(const msghdr& header);

// Most that one message can bring (SCM_MAX_FD, unix(7)).
inline constexpr std::size_t kMostFdsOfAMessage = 253;

// One recvmsg(2) with MSG_CMSG_CLOEXEC and `flags`, also after a reset.
struct MessageWithFds {
  ssize_t bytes = -1;  // its result; then errno says why
  bool whole = true;   // all descriptors have come along
  std::vector<ReceivedFd> fds;
};
MessageWithFds receive_with_fds(int socket, std::span<std::byte> place, int flags);

// What `receive` returns. When the other end has gone without reading everything, the kernel says ECONNRESET
// once, ahead of what that end had sent. Then `receive` is called again.
template <typename Receive>
ssize_t receive_also_after_reset(const Receive& receive) {
  const ssize_t got = receive();
  return got < 0 && errno == ECONNRESET ? receive() : got;
}

// Looks at the first datagram in a socket. The datagram stays there. None of its descriptors enters this
// process, where receiving or dropping one might wait (D8).
enum class NextDatagram : std::uint8_t {
  kNone,             // nothing yet
  kEnd,              // nothing any more, or an empty one
  kBytes,            // bytes alone
  kWithDescriptors,  // they come with it
};
NextDatagram next_datagram(int socket);

}  // namespace sluice
