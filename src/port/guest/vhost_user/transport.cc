#include "port/guest/vhost_user/transport.h"

#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "base/fd_passing.h"

namespace sluice {

namespace {
// One more than any message may carry, so that too many are seen; the kernel closes what does not fit
// (MSG_CTRUNC).
constexpr std::size_t kControlFds = kMaxVhostFds + 1;
constexpr std::size_t kHeaderBytes = sizeof(vhost_user_header);
}  // namespace

VhostTransport::VhostTransport(UniqueFd socket) : socket_(std::move(socket)) {}

VhostTransport::Received VhostTransport::give_up(VhostFault fault) {
  fault_ = fault;
  partial_ = {};
  return Received::kFault;
}

// False: more than a message may have. All of them are ours by now, and closed with `partial_`.
bool VhostTransport::take_descriptors(const msghdr& header) {
  for (const ReceivedFd fd : received_fds(header)) {
    partial_.fds.push_back(PeerFd::take(fd));
  }
  return partial_.fds.size() <= kMaxVhostFds && (header.msg_flags & MSG_CTRUNC) == 0;
}

VhostTransport::Step VhostTransport::read_to(std::byte* place, std::size_t wanted) {
  alignas(cmsghdr) std::byte control[CMSG_SPACE(kControlFds * sizeof(int))];
  iovec bytes{place, wanted};
  msghdr header{};
  header.msg_iov = &bytes;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  ssize_t got = ::recvmsg(socket_.get(), &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0) {
    return errno == EAGAIN || errno == EINTR ? Step::kNotYet : Step::kClosed;
  }
  if (!take_descriptors(header)) {
    give_up(VhostFault::kDescriptors);
    return Step::kFault;
  }
  if (got == 0) {
    return Step::kClosed;
  }
  have_ += static_cast<std::size_t>(got);
  return static_cast<std::size_t>(got) == wanted ? Step::kDone : Step::kNotYet;
}

VhostTransport::Received VhostTransport::receive(VhostMessage& message) {
  if (fault_ != VhostFault::kNone) {
    return Received::kFault;
  }
  auto ended = [](Step step) {
    return step == Step::kNotYet  ? Received::kNotYet
           : step == Step::kFault ? Received::kFault
                                  : Received::kClosed;
  };
  if (have_ < kHeaderBytes) {
    std::byte* place = reinterpret_cast<std::byte*>(&partial_.header) + have_;
    if (Step step = read_to(place, kHeaderBytes - have_); step != Step::kDone) {
      return ended(step);
    }
  }
  if (!header_judged_) {
    if (VhostFault fault = judge_header(partial_.header); fault != VhostFault::kNone) {
      return give_up(fault);
    }
    header_judged_ = true;
  }
  const std::size_t whole = kHeaderBytes + partial_.header.bytes;
  if (have_ < whole) {
    std::byte* place = partial_.payload.data() + (have_ - kHeaderBytes);
    if (Step step = read_to(place, whole - have_); step != Step::kDone) {
      return ended(step);
    }
  }
  message = std::exchange(partial_, {});
  have_ = 0;
  header_judged_ = false;
  return Received::kMessage;
}

std::vector<std::byte> encode_answer(std::uint32_t request, std::span<const std::byte> payload) {
  vhost_user_header header{.request = request,
                           .flags = VHOST_USER_VERSION | VHOST_USER_REPLY,
                           .bytes = static_cast<std::uint32_t>(payload.size())};
  auto head = std::as_bytes(std::span(&header, 1));
  std::vector<std::byte> answer(head.begin(), head.end());
  answer.insert(answer.end(), payload.begin(), payload.end());
  return answer;
}

bool VhostTransport::send(std::span<const std::byte> answer) {
  if (unsent_.size() + answer.size() > kMaxUnreadBytes) {
    return false;
  }
  unsent_.insert(unsent_.end(), answer.begin(), answer.end());
  return flush();
}

bool VhostTransport::flush() {
  while (!unsent_.empty()) {
    ssize_t sent = ::send(socket_.get(), unsent_.data(), unsent_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      // A peer that has closed is found by the next read, which first takes what it said before.
      return errno == EAGAIN || errno == EINTR || errno == EPIPE || errno == ECONNRESET;
    }
    unsent_.erase(unsent_.begin(), unsent_.begin() + sent);
  }
  return true;
}

}  // namespace sluice
