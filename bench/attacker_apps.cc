// Programs on libsluice that attack.
#include <poll.h>
#include <sys/stat.h>

#include <array>
#include <set>

#include "bench/attackers.h"
#include "sluice/sluice.hpp"

namespace sluice::bench {
namespace {

std::set<int> open_sockets() {
  std::set<int> sockets;
  for (int fd = 0; fd < 256; ++fd) {
    struct stat info{};
    if (::fstat(fd, &info) == 0 && S_ISSOCK(info.st_mode)) {
      sockets.insert(fd);
    }
  }
  return sockets;
}

void receive(const Ground& ground, Score& score, int sets, int numbers) {
  std::array<Packet, 64> packets;
  AttachOptions options;
  options.client_name = "attacker";
  options.reattach = false;
  for (;; ++score.sessions) {
    const std::set<int> before = open_sockets();
    auto port = Port::attach(ground.app_socket, options);
    if (!port) {
      continue;
    }
    // The port's own descriptor is an epoll set, and the kernel bounds how many may look at such. What wakes
    // it are the sockets behind.
    for (const int fd : open_sockets()) {
      if (!before.contains(fd)) {
        watch_often(fd, sets, numbers);
      }
    }
    while (port->attached()) {
      pollfd readable{port->fd(), POLLIN, 0};
      if (port->arm()) {
        (void)::poll(&readable, 1, 100);
      }
      score.operations += port->receive(packets);
      Port::release(packets);
    }
  }
}

}  // namespace

void receive_cheaply(const Ground& ground, Score& score) {
  receive(ground, score, 1, 1);
}
void receive_dearly(const Ground& ground, Score& score) {
  receive(ground, score, 128, 400);
}

}  // namespace sluice::bench
