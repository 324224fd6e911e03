// A program that receives until it is killed: at any moment it holds some packets. Says "attached", or why
// not.
//
//   system_receiver SOCKET
#include <sluice/sluice.hpp>

#include <array>
#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 2) {
    return 2;
  }
  auto port = sluice::Port::attach(argv[1], {.timeout = std::chrono::minutes(2)});
  if (!port) {
    std::fprintf(stderr, "%s\n", port.error().message.c_str());
    return 1;
  }
  std::puts("attached");
  std::fflush(stdout);
  std::array<sluice::Packet, 64> packets;
  std::array<sluice::Packet, 200> kept;
  for (std::size_t next = 0;;) {
    std::size_t count = port->receive_for(packets, std::chrono::seconds(1));
    for (std::size_t i = 0; i < count; ++i) {
      kept[next++ % kept.size()] = std::move(packets[i]);  // which gives back the one that was there
    }
  }
}
