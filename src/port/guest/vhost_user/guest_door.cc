#include "port/guest/vhost_user/guest_door.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/clock.h"
#include "base/fd_passing.h"
#include "door/channel.h"
#include "door/checker.h"

namespace sluice {

namespace {

struct Datagram {
  DoorReport report;
  vhost_user_header header;
  std::array<std::byte, kMaxVhostPayload> payload;
};
constexpr std::size_t kBeforePayload = offsetof(Datagram, payload);
static_assert(kBeforePayload == sizeof(DoorReport) + sizeof(vhost_user_header));
static_assert(sizeof(Datagram) <= kMostCheckedBytes);

// ---- in the door

class GuestDoor {
 public:
  GuestDoor(int channel, int peer, const GuestDoorOptions& options)
      : channel_(channel), options_(options), transport_(UniqueFd(peer)) {}

  void run() {
    while (wait() && hear_daemon() && hear_peer()) {
    }
  }

 private:
  bool wait() {
    const short peer_events = transport_.has_unsent() ? POLLIN | POLLOUT : POLLIN;
    waiting_ = {pollfd{.fd = channel_, .events = POLLIN, .revents = 0},
                pollfd{.fd = transport_.fd(), .events = peer_events, .revents = 0}};
    int timeout_ms = -1;
    if (transport_.in_message()) {
      const std::uint64_t now = now_ns();
      timeout_ms = deadline_ns_ <= now ? 0 : static_cast<int>((deadline_ns_ - now) / 1'000'000 + 1);
    }
    return ::poll(waiting_.data(), waiting_.size(), timeout_ms) >= 0 || errno == EINTR;
  }

  // Answers for the front-end, and the daemon's end.
  bool hear_daemon() {
    if (waiting_[0].revents == 0) {
      return true;
    }
    std::array<std::byte, 512> answer;
    const ssize_t got = ::recv(channel_, answer.data(), answer.size(), 0);
    if (got <= 0) {
      return false;
    }
    if (got == 1 && answer[0] == kAreYouThere) {
      say({.what = DoorReport::What::kHere});
      return true;
    }
    if (!transport_.send(std::span(answer).first(static_cast<std::size_t>(got)))) {
      say({.what = DoorReport::What::kFault, .fault = VhostFault::kUnread});
      return false;
    }
    return true;
  }

  bool hear_peer() {
    if (waiting_[1].revents != 0) {
      if (transport_.has_unsent() && !transport_.flush()) {
        say({.what = DoorReport::What::kClosed});
        return false;
      }
      const bool was_in_message = transport_.in_message();
      VhostMessage message;
      switch (transport_.receive(message)) {
        case VhostTransport::Received::kMessage:
          return pass_on(message);
        case VhostTransport::Received::kNotYet:
          if (!was_in_message && transport_.in_message()) {
            deadline_ns_ = now_ns() + options_.message_timeout_ns;
          }
          break;
        case VhostTransport::Received::kClosed:
          say({.what = DoorReport::What::kClosed});
          return false;
        case VhostTransport::Received::kFault:
          say({.what = DoorReport::What::kFault, .fault = transport_.fault()});
          return false;
      }
    }
    if (transport_.in_message() && now_ns() >= deadline_ns_) {
      say({.what = DoorReport::What::kFault, .fault = VhostFault::kStalled});
      return false;
    }
    return true;
  }

  bool pass_on(const VhostMessage& message) {
    Datagram datagram{};
    std::vector<int> fds;
    for (std::size_t i = 0; i < message.fds.size(); ++i) {
      if (message.fds[i].kind() == PeerFd::Kind::kRefused) {
        datagram.report.refused_fds |= 1u << i;
      } else {
        fds.push_back(message.fds[i].get());
      }
    }
    datagram.header = message.header;
    std::memcpy(datagram.payload.data(), message.payload.data(), message.header.bytes);
    return tell_daemon(channel_,
                       {reinterpret_cast<const std::byte*>(&datagram), kBeforePayload + message.header.bytes},
                       fds);
  }

  void say(const DoorReport& report) { (void)tell_daemon(channel_, std::as_bytes(std::span(&report, 1))); }

  const int channel_;
  const GuestDoorOptions options_;
  VhostTransport transport_;
  std::array<pollfd, 2> waiting_{};
  std::uint64_t deadline_ns_ = 0;  // of the message that is being read
};

}  // namespace

void run_guest_door(int channel, int peer) {
  GuestDoorOptions options;
  if (::recv(channel, &options, sizeof options, 0) != sizeof options) {
    return;
  }
  GuestDoor(channel, peer, options).run();
}

// ---- in the daemon

GuestChannel::GuestChannel(int channel, const GuestDoorOptions& options) : channel_(channel) {
  (void)::send(channel_, &options, sizeof options,
               MSG_DONTWAIT | MSG_NOSIGNAL);  // its end is seen by receive()
}

GuestChannel::Received GuestChannel::receive(VhostMessage& message) {
  if (fault_ != VhostFault::kNone) {
    return Received::kFault;
  }
  switch (next_datagram(channel_)) {
    case NextDatagram::kNone:
      return Received::kNotYet;
    case NextDatagram::kEnd:
      return Received::kClosed;
    case NextDatagram::kWithDescriptors:
      return Received::kToCheck;
    case NextDatagram::kBytes:
      break;
  }
  alignas(Datagram) std::array<std::byte, sizeof(Datagram)> bytes;
  const ssize_t got =
      receive_also_after_reset([&] { return ::recv(channel_, bytes.data(), bytes.size(), MSG_DONTWAIT); });
  if (got <= 0) {
    return Received::kClosed;
  }
  return take_datagram(std::span(bytes).first(static_cast<std::size_t>(got)), {}, message);
}

GuestChannel::Received GuestChannel::take(Checked checked, VhostMessage& message) {
  switch (checked.what) {
    case Checked::What::kPassed:
      return take_datagram(checked.bytes, std::move(checked.fds), message);
    case Checked::What::kRefused:
      return give_up(VhostFault::kDoor);
    case Checked::What::kLost:
      break;
  }
  return Received::kClosed;
}

GuestChannel::Received GuestChannel::take_datagram(std::span<const std::byte> datagram,
                                                   std::vector<PeerFd> came_along, VhostMessage& message) {
  DoorReport report;
  if (datagram.size() < sizeof report) {
    return datagram.empty() ? Received::kClosed : give_up(VhostFault::kHeader);
  }
  std::memcpy(&report, datagram.data(), sizeof report);
  switch (report.what) {
    case DoorReport::What::kClosed:
      return Received::kClosed;
    case DoorReport::What::kHere:
      return Received::kHere;
    case DoorReport::What::kFault:
      return give_up(report.fault > VhostFault::kNone && report.fault < VhostFault::kCount
                         ? report.fault
                         : VhostFault::kHeader);
    case DoorReport::What::kMessage:
      return take_message(datagram, report, std::move(came_along), message);
  }
  return give_up(VhostFault::kHeader);
}

GuestChannel::Received GuestChannel::take_message(std::span<const std::byte> datagram,
                                                  const DoorReport& report, std::vector<PeerFd> came_along,
                                                  VhostMessage& message) {
  VhostMessage taken;
  if (datagram.size() < kBeforePayload) {
    return give_up(VhostFault::kHeader);
  }
  std::memcpy(&taken.header, datagram.data() + sizeof(DoorReport), sizeof taken.header);
  if (judge_header(taken.header) != VhostFault::kNone ||
      datagram.size() != kBeforePayload + taken.header.bytes) {
    return give_up(VhostFault::kHeader);
  }
  std::memcpy(taken.payload.data(), datagram.data() + kBeforePayload, taken.header.bytes);
  const std::size_t count = came_along.size() + static_cast<std::size_t>(std::popcount(report.refused_fds));
  if (count > kMaxVhostFds) {
    return give_up(VhostFault::kDescriptors);
  }
  std::size_t next = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const bool refused = (report.refused_fds >> i & 1) != 0;
    if (!refused && next == came_along.size()) {
      return give_up(VhostFault::kDescriptors);
    }
    taken.fds.push_back(refused ? PeerFd::refused() : std::move(came_along[next++]));
  }
  message = std::move(taken);
  return Received::kMessage;
}

void GuestChannel::ask_whether_there() {
  // When there is no room for it, the door has as much to take as a held up one: it is not there.
  (void)::send(channel_, &kAreYouThere, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

bool GuestChannel::reply(std::uint32_t request, std::span<const std::byte> payload) {
  std::vector<std::byte> answer = encode_answer(request, payload);
  if (unsent_bytes_ + answer.size() > kMaxUnreadBytes) {
    return false;
  }
  unsent_bytes_ += answer.size();
  unsent_.push_back(std::move(answer));
  return flush();
}

bool GuestChannel::flush() {
  while (!unsent_.empty()) {
    const std::vector<std::byte>& answer = unsent_.front();
    if (::send(channel_, answer.data(), answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
      // A door that has ended is found by the next read, which first takes what it said before.
      return errno == EAGAIN || errno == EINTR || errno == EPIPE || errno == ECONNRESET;
    }
    unsent_bytes_ -= answer.size();
    unsent_.erase(unsent_.begin());
  }
  return true;
}

}  // namespace sluice
