// libFuzzer: any bytes, in any pieces, with descriptors of any kind, through transport and session of a guest
// port, over a real socket. The data half is a stand-in that touches the ends of what a ring is said to have.
#include <sys/socket.h>

#include "port/guest/vhost_user/transport.h"
#include "port/guest/vhost_user/vhost_fuzz.h"

namespace sluice::test {
namespace {

// Everything that is in the socket. False: the connection is over.
bool take_all(VhostTransport& transport, VhostSession& session) {
  VhostMessage message;
  for (;;) {
    switch (transport.receive(message)) {
      case VhostTransport::Received::kNotYet:
        (void)session.apply(VringControl::Patience::kShort);
        return true;
      case VhostTransport::Received::kClosed:
      case VhostTransport::Received::kFault:
        return false;
      case VhostTransport::Received::kMessage: {
        const std::uint32_t request = message.header.request;
        VhostSession::Outcome outcome = session.handle(message);
        message.fds.clear();
        if (outcome.reply || outcome.close || session.holds_memory()) {
          // The port asks again later; nothing is answered before.
          while (!session.apply(VringControl::Patience::kShort)) {
          }
          session.complete(outcome);
        }
        SLUICE_CHECK((outcome.fault == VhostFault::kNone) == outcome.sentence.empty());
        if ((outcome.reply && !transport.send(encode_answer(request, *outcome.reply))) || outcome.close) {
          return false;
        }
      }
    }
  }
}

void run(Bytes bytes) {
  static const Kinds kinds;
  static const LossSignal loss = std::move(LossSignal::create().value());
  int ends[2];
  SLUICE_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
  FrontEnd front{UniqueFd(ends[0])};
  TouchingRings rings;
  VhostTransport transport{UniqueFd(ends[1])};
  VhostSession session(2, rings, loss);
  std::byte answers[4096];
  if (const std::uint8_t begin = bytes.byte(); begin % 4 != 0) {
    set_up(front, kinds, begin % 4 == 1);
    SLUICE_CHECK(take_all(transport, session) && session.receives());
  }
  while (!bytes.empty()) {
    std::vector<int> fds;
    const std::uint8_t how = bytes.byte();
    std::vector<std::byte> said;
    if (how % 4 == 0) {
      said = bytes.some(bytes.byte() % 80u);
    } else if (how % 4 == 1) {
      const std::uint8_t request = bytes.byte();
      said = FrontEnd::bytes_of(request % 44u, bytes.some(bytes.byte() % 80u));
    } else {
      said = likely_message(bytes, kinds, fds);
    }
    if (how % 32 == 31) {
      fds.push_back(kinds.fds[how / 32 % kinds.fds.size()]);
    }
    const std::size_t cut = how >= 224 ? said.size() / 2 : said.size();
    if (said.empty() || !front.send_bytes(std::span(said).first(cut), fds) || !take_all(transport, session) ||
        (cut < said.size() &&
         (!front.send_bytes(std::span(said).subspan(cut)) || !take_all(transport, session)))) {
      break;
    }
    (void)::recv(front.fd(), answers, sizeof(answers), MSG_DONTWAIT);
  }
}

}  // namespace
}  // namespace sluice::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  sluice::test::run(sluice::test::Bytes({data, size}));
  return 0;
}
