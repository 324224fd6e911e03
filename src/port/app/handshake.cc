#include "port/app/handshake.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "base/fd_passing.h"

namespace sluice {

namespace {

// Magic and version stand in front in every version, so that a newer client of another length is told what is
// wrong.
constexpr std::size_t kVersionEnd = offsetof(sluice_app_hello, version) + sizeof(sluice_app_hello::version);

// What a stranger calls itself ends up in logs and on terminals.
std::string printable(const char* text) {
  std::string name(text);
  std::replace_if(name.begin(), name.end(), [](char c) { return c < 0x20 || c > 0x7e; }, '?');
  return name;
}

Hello refused(sluice_app_status status, std::string sentence) {
  return {status, std::move(sentence), {}};
}

}  // namespace

Hello judge_hello(std::span<const std::byte> message) {
  sluice_app_hello hello{};
  if (message.size() < kVersionEnd) {
    return refused(SLUICE_APP_BAD_HELLO,
                   fmt::format("a hello of {} bytes; {} were expected", message.size(), sizeof(hello)));
  }
  std::memcpy(&hello, message.data(), std::min(message.size(), sizeof(hello)));
  if (hello.magic != SLUICE_APP_MAGIC) {
    return refused(SLUICE_APP_BAD_HELLO, "this is not a hello of a Sluice client");
  }
  if (hello.version != SLUICE_APP_VERSION) {
    return refused(SLUICE_APP_BAD_VERSION, fmt::format("the client speaks version {}, this daemon version {}",
                                                       hello.version, SLUICE_APP_VERSION));
  }
  if (message.size() != sizeof(hello)) {
    return refused(SLUICE_APP_BAD_HELLO,
                   fmt::format("a hello of {} bytes; {} were expected", message.size(), sizeof(hello)));
  }
  if (hello.reserved != 0) {
    return refused(SLUICE_APP_BAD_HELLO, "a reserved field of the hello is not 0");
  }
  if (std::memchr(hello.client, 0, sizeof(hello.client)) == nullptr) {
    return refused(SLUICE_APP_BAD_HELLO, "the client's name does not end with a NUL");
  }
  return {SLUICE_APP_OK, {}, printable(hello.client)};
}

namespace {

// One message without descriptors: its bytes, or -1 and errno; `had_descriptors`: some were attached, and are
// gone.
ssize_t receive_message(int socket, std::span<std::byte> message, bool& had_descriptors) {
  iovec place{message.data(), message.size()};
  msghdr header{};
  header.msg_iov = &place;
  header.msg_iovlen = 1;
  const ssize_t bytes = ::recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  had_descriptors = bytes >= 0 && (header.msg_flags & MSG_CTRUNC) != 0;
  return bytes;
}

bool nothing_yet(ssize_t bytes) {
  return bytes < 0 && (errno == EAGAIN || errno == EINTR);
}

}  // namespace

HelloRead read_hello(int socket, Hello& hello) {
  std::byte message[sizeof(sluice_app_hello) + 1];  // one more, so that a long message is seen to be long
  bool had_descriptors = false;
  const ssize_t bytes = receive_message(socket, message, had_descriptors);
  if (bytes < 0) {
    return nothing_yet(bytes) ? HelloRead::kNotYet : HelloRead::kClosed;
  }
  return judge_read(std::span(message).first(static_cast<std::size_t>(bytes)), had_descriptors, hello);
}

HelloRead judge_read(std::span<const std::byte> message, bool had_descriptors, Hello& hello) {
  if (had_descriptors) {
    hello = refused(SLUICE_APP_BAD_HELLO, "a hello carries no descriptors");
    return HelloRead::kJudged;
  }
  if (message.empty()) {
    return HelloRead::kClosed;  // an empty message looks the same and deserves the same
  }
  hello = judge_hello(message);
  return HelloRead::kJudged;
}

MappedRead read_mapped(int socket) {
  std::byte message[sizeof(sluice_app_mapped) + 1];
  bool had_descriptors = false;
  const ssize_t bytes = receive_message(socket, message, had_descriptors);
  if (bytes <= 0) {
    return nothing_yet(bytes) ? MappedRead::kNotYet : MappedRead::kClosed;
  }
  return judge_mapped(std::span(message).first(static_cast<std::size_t>(bytes)), had_descriptors);
}

MappedRead judge_mapped(std::span<const std::byte> message, bool had_descriptors) {
  sluice_app_mapped mapped{};
  if (message.size() != sizeof(mapped) || had_descriptors) {
    return MappedRead::kWrong;
  }
  std::memcpy(&mapped, message.data(), sizeof(mapped));
  return mapped.magic == SLUICE_APP_MAGIC && mapped.version == SLUICE_APP_VERSION && mapped.reserved == 0
             ? MappedRead::kMapped
             : MappedRead::kWrong;
}

namespace {

Result<void> send_message(int socket, sluice_app_welcome& welcome, std::span<const int> fds) {
  welcome.magic = SLUICE_APP_MAGIC;
  welcome.version = SLUICE_APP_VERSION;
  if (send_with_fds(socket, std::as_bytes(std::span(&welcome, 1)), fds, MSG_DONTWAIT) < 0) {
    return fail_errno(errno, "cannot send the welcome");
  }
  return {};
}

}  // namespace

bool has_ended(int socket) {
  pollfd state{.fd = socket, .events = POLLRDHUP, .revents = 0};
  return ::poll(&state, 1, 0) > 0;
}

void describe_port(const AppPortOptions& options, sluice_app_welcome& welcome) {
  if (!options.source_macs.empty()) {
    std::memcpy(welcome.source_mac, options.source_macs.front().data(), sizeof(welcome.source_mac));
  } else if (!options.trust) {
    welcome.flags |= SLUICE_APP_NO_ADDRESS;
  }
  for (std::size_t i = 0; i < options.workers.size(); ++i) {
    if (options.worker_sends[i]) {
      (i < 32 ? welcome.tx_lanes_low : welcome.tx_lanes_high) |= 1u << (i % 32);
    }
  }
}

void send_refusal(int socket, sluice_app_status status, const std::string& sentence) {
  SLUICE_CHECK(status != SLUICE_APP_OK);
  sluice_app_welcome welcome{};
  welcome.status = static_cast<std::uint16_t>(status);
  std::memcpy(welcome.message, sentence.data(), std::min(sentence.size(), sizeof(welcome.message) - 1));
  (void)send_message(socket, welcome, {});
}

Result<void> send_served(int socket) {
  const sluice_app_served served{
      .magic = SLUICE_APP_MAGIC, .version = SLUICE_APP_VERSION, .status = SLUICE_APP_OK};
  if (::send(socket, &served, sizeof(served), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
    return fail_errno(errno, "cannot tell the app that it is served");
  }
  return {};
}

Result<void> send_welcome(int socket, sluice_app_welcome welcome, std::span<const int> fds) {
  welcome.status = SLUICE_APP_OK;
  return send_message(socket, welcome, fds);
}

}  // namespace sluice
