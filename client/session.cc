#include "session.h"

#include <poll.h>
#include <sys/socket.h>

namespace sluice::inline v1::client {

Expected<std::shared_ptr<const Session>> Session::create(Descriptor socket, Welcome welcome,
                                                         std::uint64_t serial) {
  auto session = std::make_shared<Session>();
  session->serial_ = serial;
  const sluice_app_welcome& layout = welcome.message;
  // The daemon gives the RX arena and its own segment O_RDONLY (D4): asking for more would fail.
  auto arena = std::make_shared<Memory>(welcome.fds[kRxArenaFd].get(), layout.rx_arena_bytes, PROT_READ);
  session->daemon_segment_ =
      Memory(welcome.fds[kDaemonSegmentFd].get(), layout.daemon_segment_bytes, PROT_READ);
  session->app_segment_ =
      Memory(welcome.fds[kAppSegmentFd].get(), layout.app_segment_bytes, PROT_READ | PROT_WRITE);
  session->tx_arena_ = Memory(welcome.fds[kTxArenaFd].get(), layout.tx_arena_bytes, PROT_READ | PROT_WRITE);
  if (!*arena || !session->daemon_segment_ || !session->app_segment_ || !session->tx_arena_) {
    return system_error("cannot map the memory of the session");
  }
  session->rx_arena_ = std::move(arena);
  for (std::size_t i = 0; i < kFirstLaneFd; ++i) {
    welcome.fds[i].reset();  // a mapping needs no descriptor
  }
  ucred daemon{};
  socklen_t bytes = sizeof(daemon);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &daemon, &bytes) == 0) {
    session->daemon_pid_ = daemon.pid;
  }
  session->socket_ = std::move(socket);
  session->welcome_ = std::move(welcome);
  return std::shared_ptr<const Session>(std::move(session));
}

bool Session::ended() const {
  pollfd query{socket_.get(), POLLRDHUP, 0};
  return ::poll(&query, 1, 0) > 0 && (query.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

}  // namespace sluice::inline v1::client
