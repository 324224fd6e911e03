// latency_echo: answers the requests of `latency_bench`, as a process of its own.
//
//   latency_echo kernel | app SOCKET [--spin-us N] | guest SOCKET   [--cpu N]
#include "bench/latency_echo.h"

#include <arpa/inet.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <optional>

#include "base/clock.h"
#include "base/fd.h"
#include "bench/latency_frame.h"

namespace sluice::bench {

std::string echo_on_socket() {
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(kEchoPort);
  if (!socket || ::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) < 0) {
    return std::string("cannot bind the UDP port: ") + std::strerror(errno);
  }
  std::array<std::byte, 2048> datagram;
  for (;;) {
    sockaddr_in from{};
    socklen_t from_bytes = sizeof(from);
    const ssize_t got = ::recvfrom(socket.get(), datagram.data(), datagram.size(), 0,
                                   reinterpret_cast<sockaddr*>(&from), &from_bytes);
    if (got < 0) {
      continue;  // an ICMP error of an earlier answer
    }
    const std::uint64_t now = now_ns();
    const auto bytes = static_cast<std::size_t>(got);
    stamp(std::span(datagram).first(bytes), 0, now, now_ns());
    ::sendto(socket.get(), datagram.data(), bytes, 0, reinterpret_cast<const sockaddr*>(&from), from_bytes);
  }
}

}  // namespace sluice::bench

int main(int argc, char** argv) {
  using namespace sluice::bench;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  CLI::App app("Answers the requests of latency_bench.");
  std::string path;
  std::uint32_t spin_us = 0;
  std::optional<std::uint32_t> cpu;
  app.add_option("--cpu", cpu, "to run on; none: on any");
  app.require_subcommand(1);
  CLI::App* kernel = app.add_subcommand("kernel", "on a UDP socket");
  CLI::App* port = app.add_subcommand("app", "on an app port of Sluice");
  port->add_option("socket", path)->required();
  port->add_option("--spin-us", spin_us);
  CLI::App* guest = app.add_subcommand("guest", "on a guest port, as a front-end and driver of its own");
  guest->add_option("socket", path)->required();
  CLI11_PARSE(app, argc, argv);
  if (cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(*cpu, &set);
    ::sched_setaffinity(0, sizeof(set), &set);
  }
  const std::string why = *kernel ? echo_on_socket()
                          : *port ? echo_on_port(path, spin_us)
                                  : echo_as_guest(path);
  std::fprintf(stderr, "latency_echo: %s\n", why.c_str());
  return 1;
}
