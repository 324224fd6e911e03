// Descriptors that travel with bytes over a Unix socket (SCM_RIGHTS, unix(7)).
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <cstddef>
#include <span>
#include <vector>

namespace sluice {

// One sendmsg(2) with MSG_NOSIGNAL and `flags`; its result, and errno.
ssize_t send_with_fds(int socket, std::span<const std::byte> bytes, std::span<const int> fds, int flags);

// What came with a message that recvmsg(2) has taken: the receiver's from here on, to be closed.
std::vector<int> received_fds(const msghdr& header);

}  // namespace sluice
