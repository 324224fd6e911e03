#include "door/checker.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <span>
#include <vector>

#include "base/fd_passing.h"
#include "base/peer_fd.h"
#include "door/channel.h"

namespace sluice {

namespace {

// A peer's descriptors. They are closed at the end of the check, in this process, which may wait.
class Taken {
 public:
  explicit Taken(const std::vector<ReceivedFd>& fds) {
    std::ranges::transform(fds, std::back_inserter(fds_), number_of);
  }
  Taken(const Taken&) = delete;
  ~Taken() {
    for (const int fd : fds_) {
      ::close(fd);
    }
  }
  std::span<const int> fds() const { return fds_; }
  bool all_known() const {
    return std::ranges::none_of(fds_, [](int fd) { return classify_peer_fd(fd) == PeerFd::Kind::kRefused; });
  }

 private:
  std::vector<int> fds_;
};

MessageWithFds take(int socket, std::span<std::byte> place, int flags) {
  MessageWithFds message;
  do {
    message = receive_with_fds(socket, place, flags);
  } while (message.bytes < 0 && errno == EINTR);
  return message;
}

}  // namespace

bool check_next(int from, int channel) {
  std::array<std::byte, sizeof(CheckReport) + kMostCheckedBytes> datagram;
  const MessageWithFds message = take(from, std::span(datagram).subspan(sizeof(CheckReport)), MSG_DONTWAIT);
  const Taken taken(message.fds);
  const bool passes = message.whole && taken.all_known();
  const CheckReport report{.what = passes ? CheckReport::What::kPassed : CheckReport::What::kRefused};
  std::memcpy(datagram.data(), &report, sizeof report);
  const std::size_t bytes = passes && message.bytes > 0 ? static_cast<std::size_t>(message.bytes) : 0;
  const std::span<const int> passed = passes ? taken.fds() : std::span<const int>();
  return tell_daemon(channel, std::span(datagram).first(sizeof report + bytes), passed) && passes;
}

void run_checker(int channel) {
  for (;;) {
    std::byte byte{};
    const MessageWithFds request = take(channel, std::span(&byte, 1), 0);
    if (request.bytes != 1 || request.fds.size() != 1) {
      return;
    }
    const Taken from(request.fds);
    if (!check_next(from.fds().front(), channel)) {
      return;
    }
    // What has been passed on is closed by now, and that took as long as it took.
    if (!tell_daemon(channel, std::span(&byte, 1))) {
      return;
    }
  }
}

}  // namespace sluice
