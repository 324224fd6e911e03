// libFuzzer: what a guest's door reads. Any bytes in any pieces, with descriptors of any kind, to the door
// itself; its other end is heard by a thread, as the daemon hears it, and answered now and then.
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <thread>

#include "door/checker.h"
#include "door/checkers.h"
#include "port/guest/vhost_user/guest_door.h"
#include "port/guest/vhost_user/vhost_fuzz.h"

namespace sluice::test {
namespace {

std::pair<UniqueFd, UniqueFd> sockets(int type) {
  int ends[2];
  SLUICE_CHECK(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) == 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// Until the door has said its last word. A door that is one of ours passes on what a checker lets through.
void hear(int channel, std::uint8_t answered) {
  const auto check = sockets(SOCK_SEQPACKET);
  GuestChannel daemon(channel, {});
  VhostMessage message;
  for (std::uint32_t heard = 0;;) {
    GuestChannel::Received received = daemon.receive(message);
    if (received == GuestChannel::Received::kToCheck) {
      Checked checked;
      SLUICE_CHECK(check_next(channel, check.second.get()), "the door passed on a kind that it may not");
      SLUICE_CHECK(hear_checker(check.first.get(), checked) == CheckerSaid::kChecked);
      received = daemon.take(std::move(checked), message);
    }
    switch (received) {
      case GuestChannel::Received::kNotYet: {
        pollfd state{.fd = channel, .events = POLLIN, .revents = 0};
        ::poll(&state, 1, -1);
        break;
      }
      case GuestChannel::Received::kMessage:
        SLUICE_CHECK(judge_header(message.header) == VhostFault::kNone);
        SLUICE_CHECK(message.fds.size() <= kMaxVhostFds);
        if (++heard % (answered % 4u + 1) == 0 && !daemon.reply(message.header.request, {})) {
          ::shutdown(channel, SHUT_WR);
          return;
        }
        break;
      default:
        SLUICE_CHECK(daemon.fault() != VhostFault::kDoor);
        ::shutdown(channel, SHUT_WR);
        return;
    }
  }
}

void run(Bytes bytes) {
  static const Kinds kinds;
  auto channel = sockets(SOCK_SEQPACKET);
  SLUICE_CHECK(::fcntl(channel.first.get(), F_SETFL, O_NONBLOCK) == 0);
  auto peer = sockets(SOCK_STREAM);
  SLUICE_CHECK(::fcntl(peer.second.get(), F_SETFL, O_NONBLOCK) == 0);
  FrontEnd front(std::move(peer.first));
  const std::uint8_t answered = bytes.byte();
  // All of it fits into the socket, and the end comes behind it.
  for (std::size_t sent = 0; !bytes.empty() && sent < 64 * 1024;) {
    std::vector<int> fds;
    const std::uint8_t how = bytes.byte();
    std::vector<std::byte> said = how % 4 == 0   ? bytes.some(bytes.byte() % 80u + 1)
                                  : how % 4 == 1 ? FrontEnd::bytes_of(bytes.byte(), bytes.some(bytes.byte()))
                                                 : likely_message(bytes, kinds, fds);
    if (how % 16 >= 14) {
      fds.insert(fds.end(), bytes.byte() % 12u, kinds.fds[bytes.byte() % kinds.fds.size()]);
    }
    const std::size_t cut = how >= 224 ? said.size() / 2 : said.size();
    sent += said.size() + 4096 * fds.size();
    if (!front.send_bytes(std::span(said).first(cut), fds) ||
        (cut < said.size() && !front.send_bytes(std::span(said).subspan(cut)))) {
      break;
    }
  }
  ::shutdown(front.fd(), SHUT_WR);
  std::thread daemon(hear, channel.first.get(), answered);
  run_guest_door(channel.second.get(), peer.second.release());
  channel.second.reset();  // the process has ended
  daemon.join();
}

}  // namespace
}  // namespace sluice::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  sluice::test::run(sluice::test::Bytes({data, size}));
  return 0;
}
