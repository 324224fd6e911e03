// guest_end: bytes by TCP whose every one is known, for both sides of a bulk transfer. Linked statically: it
// also runs where there is nothing but a kernel.
//
//   guest_end sink PORT BYTES        says LISTENING, takes one connection; 0: so many came, each as it was
//   sent guest_end source IP PORT BYTES   0: all of them are out and the other side has ended
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

using Chunk = std::array<unsigned char, 16384>;
constexpr time_t kPatienceSeconds = 60;

unsigned char byte_at(std::uint64_t position) {
  return static_cast<unsigned char>((position * 2654435761u) >> 13);
}

int tcp_socket() {
  int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
  timeval patience{kPatienceSeconds, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  return fd;
}

int wrong(const char* what) {
  std::perror(what);
  return 1;
}

int sink(std::uint16_t port, std::uint64_t bytes) {
  int listener = tcp_socket();
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)) < 0 ||
      ::listen(listener, 1) < 0) {
    return wrong("listen");
  }
  std::puts("LISTENING");
  std::fflush(stdout);
  int connection = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (connection < 0) {
    return wrong("accept");
  }
  timeval patience{kPatienceSeconds, 0};
  ::setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  static Chunk chunk;
  std::uint64_t got = 0;
  for (;;) {
    ssize_t size = ::recv(connection, chunk.data(), chunk.size(), 0);
    if (size <= 0) {
      std::printf("%llu bytes\n", static_cast<unsigned long long>(got));
      return size == 0 && got == bytes ? 0 : wrong("recv");
    }
    for (std::size_t i = 0; i < static_cast<std::size_t>(size); ++i) {
      if (chunk[i] != byte_at(got++)) {
        std::printf("byte %llu is wrong\n", static_cast<unsigned long long>(got - 1));
        return 1;
      }
    }
  }
}

int source(const char* ip, std::uint16_t port, std::uint64_t bytes) {
  int fd = tcp_socket();
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  ::inet_pton(AF_INET, ip, &address.sin_addr);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) < 0) {
    return wrong("connect");
  }
  static Chunk chunk;
  for (std::uint64_t sent = 0; sent < bytes;) {
    std::size_t size = static_cast<std::size_t>(std::min<std::uint64_t>(chunk.size(), bytes - sent));
    for (std::size_t i = 0; i < size; ++i) {
      chunk[i] = byte_at(sent + i);
    }
    ssize_t put = ::send(fd, chunk.data(), size, MSG_NOSIGNAL);
    if (put <= 0) {
      return wrong("send");
    }
    sent += static_cast<std::uint64_t>(put);
  }
  ::shutdown(fd, SHUT_WR);
  return ::recv(fd, chunk.data(), 1, 0) == 0 ? 0 : wrong("end");
}

}  // namespace

int main(int argc, char** argv) {
  auto number = [&](int i) { return std::strtoull(argv[i], nullptr, 10); };
  if (argc == 4 && std::strcmp(argv[1], "sink") == 0) {
    return sink(static_cast<std::uint16_t>(number(2)), number(3));
  }
  if (argc == 5 && std::strcmp(argv[1], "source") == 0) {
    return source(argv[2], static_cast<std::uint16_t>(number(3)), number(4));
  }
  std::fputs("guest_end sink PORT BYTES | source IP PORT BYTES\n", stderr);
  return 2;
}
