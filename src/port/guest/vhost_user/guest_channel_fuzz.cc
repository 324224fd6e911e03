// libFuzzer: a door that its peer has taken over. Datagrams of any length and content, with any number of
// descriptors of any kind, through the checker, the daemon's end of the channel and a session.
#include <sys/socket.h>

#include <array>
#include <cstring>

#include "base/closer.h"
#include "base/fd_passing.h"
#include "door/checker.h"
#include "door/checkers.h"
#include "port/guest/vhost_user/guest_door.h"
#include "port/guest/vhost_user/vhost_fuzz.h"

namespace sluice::test {
namespace {

std::pair<UniqueFd, UniqueFd> datagrams() {
  int ends[2];
  SLUICE_CHECK(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// The lowest number that no descriptor has: the same as before when none has come.
int lowest_free() {
  const int fd = ::fcntl(0, F_DUPFD_CLOEXEC, 0);
  ::close(fd);
  return fd;
}

std::vector<std::byte> report_of(const DoorReport& report, std::span<const std::byte> rest) {
  const auto head = std::as_bytes(std::span(&report, 1));
  std::vector<std::byte> datagram(head.begin(), head.end());
  datagram.insert(datagram.end(), rest.begin(), rest.end());
  return datagram;
}

// The daemon's side: a guest port without the port.
class Daemon {
 public:
  explicit Daemon(const LossSignal& loss) : session_(2, rings_, loss) {}
  int door() const { return channel_ends_.second.get(); }

  // Everything that is in the channel. False: the session is over.
  bool take_all() {
    for (;;) {
      VhostMessage message;
      const int free_before = lowest_free();
      GuestChannel::Received received = channel_.receive(message);
      SLUICE_CHECK(lowest_free() == free_before, "a descriptor came past the checker");
      if (received == GuestChannel::Received::kToCheck) {
        received = channel_.take(checked(), message);
      }
      if (received == GuestChannel::Received::kNotYet) {
        (void)session_.apply(VringControl::Patience::kShort);
        return true;
      }
      if (received == GuestChannel::Received::kHere) {
        continue;
      }
      if (received != GuestChannel::Received::kMessage || !handle(message)) {
        return false;
      }
    }
  }
  bool receives() const { return session_.receives(); }

 private:
  Checked checked() {
    const bool goes_on = check_next(channel_.fd(), check_ends_.second.get());
    Checked checked;
    SLUICE_CHECK(hear_checker(check_ends_.first.get(), checked) == CheckerSaid::kChecked);
    SLUICE_CHECK(goes_on == (checked.what == Checked::What::kPassed));
    SLUICE_CHECK(goes_on || checked.fds.empty());
    for (const PeerFd& fd : checked.fds) {
      SLUICE_CHECK(fd.is_eventfd() || fd.is_memory());
    }
    return checked;
  }

  bool handle(VhostMessage& message) {
    const std::uint32_t request = message.header.request;
    VhostSession::Outcome outcome = session_.handle(message);
    message.fds.clear();
    if (outcome.reply || outcome.close || session_.holds_memory()) {
      while (!session_.apply(VringControl::Patience::kShort)) {
      }
      session_.complete(outcome);
    }
    SLUICE_CHECK((outcome.fault == VhostFault::kNone) == outcome.sentence.empty());
    return (!outcome.reply || channel_.reply(request, *outcome.reply)) && !outcome.close;
  }

  std::pair<UniqueFd, UniqueFd> channel_ends_ = datagrams(), check_ends_ = datagrams();
  GuestChannel channel_{channel_ends_.first.get(), {}};
  TouchingRings rings_;
  VhostSession session_;
};

// What a door says of a device that is set up as it should be.
bool set_up_through(Daemon& daemon, const Kinds& kinds, bool packed) {
  int ends[2];
  SLUICE_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
  FrontEnd front{UniqueFd(ends[0])};
  VhostTransport transport{UniqueFd(ends[1])};
  set_up(front, kinds, packed);
  VhostMessage message;
  while (transport.receive(message) == VhostTransport::Received::kMessage) {
    std::vector<int> fds;
    for (const PeerFd& fd : message.fds) {
      fds.push_back(fd.get());
    }
    auto said = FrontEnd::bytes_of(message.header.request, message.body(), message.header.flags);
    if (send_with_fds(daemon.door(), report_of({}, said), fds, 0) < 0 || !daemon.take_all()) {
      return false;
    }
  }
  return daemon.receives();
}

std::vector<std::byte> any_datagram(Bytes& bytes, const Kinds& kinds, std::vector<int>& fds) {
  const std::uint8_t how = bytes.byte();
  std::vector<std::byte> datagram;
  if (how % 8 == 0) {
    datagram = bytes.some(bytes.byte());
  } else if (how % 8 == 1) {
    const auto report = bytes.value<std::array<std::byte, sizeof(DoorReport)>>();
    datagram.assign(report.begin(), report.end());
    const auto rest = bytes.some(bytes.byte());
    datagram.insert(datagram.end(), rest.begin(), rest.end());
  } else {
    DoorReport report;
    report.refused_fds = how % 8 == 2 ? bytes.value<std::uint32_t>() : 0;
    datagram = report_of(report, likely_message(bytes, kinds, fds));
  }
  if (how >= 240) {
    datagram.resize(bytes.value<std::uint16_t>() % 8192u);
  }
  if (how % 16 >= 14) {
    const int fd = kinds.fds[bytes.byte() % kinds.fds.size()];
    fds.insert(fds.end(), how >= 224 ? bytes.byte() % (kMostFdsOfAMessage + 1) : 1, fd);
  }
  fds.resize(std::min(fds.size(), kMostFdsOfAMessage));
  return datagram;
}

void run(Bytes bytes) {
  static const Kinds kinds;
  static const LossSignal loss = std::move(LossSignal::create().value());
  Closer::of_process().work_without_thread();  // descriptors are counted here
  Daemon daemon(loss);
  std::array<std::byte, 4096> answers;
  SLUICE_CHECK(::recv(daemon.door(), answers.data(), answers.size(), 0) == sizeof(GuestDoorOptions));
  const std::uint8_t begin = bytes.byte();
  if (begin % 4 != 0) {
    SLUICE_CHECK(set_up_through(daemon, kinds, begin % 4 == 1));
  }
  const bool reads_answers = begin < 192;
  bool goes_on = true;
  while (goes_on && !bytes.empty()) {
    std::vector<int> fds;
    const std::vector<std::byte> datagram = any_datagram(bytes, kinds, fds);
    goes_on = send_with_fds(daemon.door(), datagram, fds, 0) >= 0 && daemon.take_all();
    while (reads_answers && ::recv(daemon.door(), answers.data(), answers.size(), 0) > 0) {
    }
  }
}

}  // namespace
}  // namespace sluice::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  sluice::test::run(sluice::test::Bytes({data, size}));
  return 0;
}
