#include "door/one_message.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/fd_passing.h"
#include "door/channel.h"

namespace sluice {

namespace {

using Datagram = std::array<std::byte, sizeof(MessageReport) + kMostMessageBytes>;

}  // namespace

void run_message_door(int channel, int peer) {
  Datagram datagram{};
  iovec bytes{datagram.data() + sizeof(MessageReport), kMostMessageBytes};
  msghdr header{};
  header.msg_iov = &bytes;
  header.msg_iovlen = 1;
  // No room for descriptors: the kernel closes them on the way back to here, however long that takes.
  const ssize_t got = ::recvmsg(peer, &header, MSG_DONTWAIT);
  MessageReport report;
  if (got < 0) {
    const bool not_yet = errno == EAGAIN || errno == EINTR;
    report.what = not_yet ? MessageReport::What::kNotYet : MessageReport::What::kClosed;
  } else {
    report.had_descriptors = (header.msg_flags & MSG_CTRUNC) != 0 ? 1 : 0;
    // An empty message looks like the end of the connection, and is treated as one.
    const bool read = got > 0 || report.had_descriptors != 0;
    report.what = read ? MessageReport::What::kRead : MessageReport::What::kClosed;
  }
  std::memcpy(datagram.data(), &report, sizeof report);
  const std::size_t length = got > 0 ? static_cast<std::size_t>(got) : 0;
  (void)tell_daemon(channel, std::span<const std::byte>(datagram).first(sizeof report + length));
}

bool hear_message_door(int channel, OneMessage& message) {
  const NextDatagram next = next_datagram(channel);
  if (next == NextDatagram::kNone) {
    return false;
  }
  Datagram datagram;
  // A door of this kind sends no descriptors. A message that comes with some is not taken.
  const auto receive = [&] { return ::recv(channel, datagram.data(), datagram.size(), MSG_DONTWAIT); };
  const ssize_t got = next == NextDatagram::kBytes ? receive_also_after_reset(receive) : 0;
  message = {};
  if (got < static_cast<ssize_t>(sizeof(MessageReport))) {
    message.report.what = MessageReport::What::kClosed;  // it ended without a word
    return true;
  }
  std::memcpy(&message.report, datagram.data(), sizeof message.report);
  const auto rest = std::span(datagram).first(static_cast<std::size_t>(got)).subspan(sizeof(MessageReport));
  message.bytes.assign(rest.begin(), rest.end());
  return true;
}

}  // namespace sluice
