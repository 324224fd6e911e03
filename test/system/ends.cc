#include "test/system/ends.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "test/support/eventually.h"

namespace sluice::test {

namespace {

constexpr int kBigBuffer = 32 << 20;
constexpr int kSmallWindow = 16 << 10;  // of TCP: about 12 segments

sockaddr_in address_of(const std::string& ip, std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  SLUICE_CHECK(::inet_pton(AF_INET, ip.c_str(), &address.sin_addr) == 1, "bad address {}", ip);
  return address;
}

void set_timeout(int fd, int option, int milliseconds) {
  timeval timeout{milliseconds / 1000, milliseconds % 1000 * 1000};
  ::setsockopt(fd, SOL_SOCKET, option, &timeout, sizeof(timeout));
}

std::byte tcp_byte(std::uint64_t position) {
  return static_cast<std::byte>((position * 2654435761u) >> 13);
}

void send_all(int fd, std::uint64_t bytes) {
  std::array<std::byte, 4096> chunk;
  for (std::uint64_t sent = 0; sent < bytes;) {
    std::size_t size = std::min<std::uint64_t>(chunk.size(), bytes - sent);
    for (std::size_t i = 0; i < size; ++i) {
      chunk[i] = tcp_byte(sent + i);
    }
    ssize_t put = ::send(fd, chunk.data(), size, MSG_NOSIGNAL);
    if (put <= 0) {
      return;
    }
    sent += static_cast<std::uint64_t>(put);
  }
}

bool receive_all(int fd, std::uint64_t bytes) {
  std::array<std::byte, 4096> chunk;
  std::uint64_t got = 0;
  for (;;) {
    ssize_t size = ::recv(fd, chunk.data(), chunk.size(), 0);
    if (size <= 0) {
      return size == 0 && got == bytes;
    }
    for (ssize_t i = 0; i < size; ++i) {
      if (chunk[static_cast<std::size_t>(i)] != tcp_byte(got++)) {
        return false;
      }
    }
  }
}

}  // namespace

UniqueFd udp_socket(const NetNs& ns, const std::string& ip, std::uint16_t port) {
  UniqueFd fd;
  ns.run([&] { fd.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)); });
  SLUICE_CHECK(fd, "socket: errno {}", errno);
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kBigBuffer, sizeof(kBigBuffer));
  sockaddr_in address = address_of(ip, port);
  SLUICE_CHECK(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0,
               "bind: errno {}", errno);
  return fd;
}

Tap::Tap(const NetNs& ns, int ifindex) : ifindex_(ifindex) {
  ns.run([&] { fd_.reset(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)); });
  SLUICE_CHECK(fd_, "packet socket: errno {}", errno);
  ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kBigBuffer, sizeof(kBigBuffer));
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = ifindex;
  SLUICE_CHECK(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0,
               "bind: errno {}", errno);
}

Frame Tap::next() {
  Frame frame(65536);
  for (;;) {
    sockaddr_ll from{};
    socklen_t from_bytes = sizeof(from);
    ssize_t got =
        ::recvfrom(fd_.get(), frame.data(), frame.size(), 0, reinterpret_cast<sockaddr*>(&from), &from_bytes);
    if (got <= 0) {
      return {};
    }
    if (from.sll_pkttype != PACKET_OUTGOING) {
      frame.resize(static_cast<std::size_t>(got));
      return frame;
    }
  }
}

std::uint64_t Tap::count_udp_to(std::uint16_t udp_port) {
  std::uint64_t count = 0;
  for (Frame frame = next(); !frame.empty(); frame = next()) {
    std::uint16_t wanted = htons(udp_port);
    bool udp = frame.size() >= kPayloadOffset && frame[12] == std::byte{8} && frame[13] == std::byte{0} &&
               frame[23] == std::byte{IPPROTO_UDP};
    count += udp && std::memcmp(frame.data() + kSourcePortOffset + 2, &wanted, 2) == 0 ? 1 : 0;
  }
  return count;
}

bool Tap::send(std::span<const std::byte> frame, int& error) {
  sockaddr_ll to{};
  to.sll_family = AF_PACKET;
  to.sll_ifindex = ifindex_;
  ssize_t sent =
      ::sendto(fd_.get(), frame.data(), frame.size(), 0, reinterpret_cast<const sockaddr*>(&to), sizeof(to));
  error = sent < 0 ? errno : 0;
  return sent == static_cast<ssize_t>(frame.size());
}

KernelReceiver::KernelReceiver(const NetNs& ns, const std::string& ip, std::uint16_t port,
                               std::uint64_t window)
    : socket_(udp_socket(ns, ip, port)), tally_(kAnyNumber), window_(window), allowed_(window) {
  set_timeout(socket_.get(), SO_RCVTIMEO, 20);
  thread_ = std::thread([this] {
    std::array<std::byte, 2048> payload;
    while (!stop_) {
      ssize_t got = ::recv(socket_.get(), payload.data(), payload.size(), 0);
      std::uint64_t sequence;
      if (got >= static_cast<ssize_t>(sizeof(sequence))) {
        std::memcpy(&sequence, payload.data(), sizeof(sequence));
        tally_.note(sequence);
        allowed_ = ++received_ + window_;
      }
    }
  });
}

KernelReceiver::~KernelReceiver() {
  stop_ = true;
  if (thread_.joinable()) {
    thread_.join();
  }
}

void KernelReceiver::expect_all_once(std::uint64_t sequences) {
  eventually([&] { return received_ >= sequences; });
  stop_ = true;
  thread_.join();
  EXPECT_EQ(tally_.lost(sequences), 0u);
  EXPECT_EQ(tally_.doubled(), 0u);
  EXPECT_EQ(received_, sequences);
}

TcpTransfer::TcpTransfer(const NetNs& from, const NetNs& to, const std::string& to_ip, std::uint64_t bytes) {
  UniqueFd listener, client;
  to.run([&] { listener.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)); });
  from.run([&] { client.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)); });
  ::setsockopt(listener.get(), SOL_SOCKET, SO_RCVBUF, &kSmallWindow,
               sizeof(kSmallWindow));  // connections inherit it
  sockaddr_in address = address_of(to_ip, 0);
  socklen_t size = sizeof(address);
  SLUICE_CHECK(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0,
               "errno {}", errno);
  SLUICE_CHECK(::listen(listener.get(), 1) == 0, "errno {}", errno);
  SLUICE_CHECK(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0, "errno {}",
               errno);
  for (int fd : {listener.get(), client.get()}) {
    set_timeout(fd, SO_RCVTIMEO, 30'000);
    set_timeout(fd, SO_SNDTIMEO, 30'000);
  }
  receiver_ = std::thread([this, bytes, listener = std::move(listener)] {
    UniqueFd connection(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    set_timeout(connection.get(), SO_RCVTIMEO, 30'000);
    intact_ = receive_all(connection.get(), bytes);
  });
  sender_ = std::thread([address, bytes, client = std::move(client)] {
    if (::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
      send_all(client.get(), bytes);
    }
  });
}

TcpTransfer::~TcpTransfer() {
  finish();
}

bool TcpTransfer::finish() {
  for (std::thread* each : {&sender_, &receiver_}) {
    if (each->joinable()) {
      each->join();
    }
  }
  return intact_;
}

}  // namespace sluice::test
