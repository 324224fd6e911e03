#include "base/fd_passing.h"

#include <cerrno>
#include <cstring>

namespace sluice {

ssize_t send_with_fds(int socket, std::span<const std::byte> bytes, std::span<const int> fds, int flags) {
  iovec place{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr header{};
  header.msg_iov = &place;
  header.msg_iovlen = 1;
  std::vector<std::byte> control;
  if (!fds.empty()) {
    control.resize(CMSG_SPACE(fds.size_bytes()));
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
  }
  return ::sendmsg(socket, &header, MSG_NOSIGNAL | flags);
}

std::vector<ReceivedFd> received_fds(const msghdr& header) {
  std::vector<ReceivedFd> fds;
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr;
       part = CMSG_NXTHDR(const_cast<msghdr*>(&header), part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    const std::size_t before = fds.size(), count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    fds.resize(before + count);
    std::memcpy(fds.data() + before, CMSG_DATA(part), count * sizeof(int));
  }
  return fds;
}

MessageWithFds receive_with_fds(int socket, std::span<std::byte> place, int flags) {
  alignas(cmsghdr) std::byte control[CMSG_SPACE(kMostFdsOfAMessage * sizeof(int))];
  iovec part{place.data(), place.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  const ssize_t got =
      receive_also_after_reset([&] { return ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC | flags); });
  if (got < 0) {
    return {};
  }
  return {.bytes = got, .whole = (header.msg_flags & MSG_CTRUNC) == 0, .fds = received_fds(header)};
}

NextDatagram next_datagram(int socket) {
  std::byte first{};
  iovec place{&first, 1};
  msghdr header{};
  header.msg_iov = &place;
  header.msg_iovlen = 1;
  // Without room for descriptors the kernel says that there are some (net/core/scm.c, scm_recv()); peeked at,
  // they stay with the datagram.
  const ssize_t got =
      receive_also_after_reset([&] { return ::recvmsg(socket, &header, MSG_PEEK | MSG_DONTWAIT); });
  if (got < 0) {
    return errno == EAGAIN || errno == EINTR ? NextDatagram::kNone : NextDatagram::kEnd;
  }
  if ((header.msg_flags & MSG_CTRUNC) != 0) {
    return NextDatagram::kWithDescriptors;
  }
  return got > 0 ? NextDatagram::kBytes : NextDatagram::kEnd;
}

}  // namespace sluice
