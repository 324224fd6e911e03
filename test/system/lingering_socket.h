// A socket that makes who closes it wait.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <functional>

#include "base/fd.h"

namespace sluice::test {

// A TCP connection whose last close waits for an hour: it lingers, and what it sent is not taken. Its sender
// is a process that ends at once: a process that ends waits for no close, and this test has none to make.
class LingeringSocket {
 public:
  explicit LingeringSocket(const std::function<void(int)>& send) {
    listener_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{
        .sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_zero = {}};
    socklen_t bytes = sizeof address;
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(listener_.get(), 1), 0);
    EXPECT_EQ(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &bytes), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      const int sender = ::socket(AF_INET, SOCK_STREAM, 0);
      const linger hour{.l_onoff = 1, .l_linger = 3600};
      if (::connect(sender, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
          ::setsockopt(sender, SOL_SOCKET, SO_LINGER, &hour, sizeof hour) == 0 &&
          ::fcntl(sender, F_SETFL, O_NONBLOCK) == 0) {
        static const std::array<char, 65536> full{};
        while (::send(sender, full.data(), full.size(), MSG_NOSIGNAL) > 0) {
        }
        send(sender);
        ::_exit(0);
      }
      ::_exit(1);
    }
    accepted_.reset(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    int status = -1;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }

 private:
  UniqueFd listener_, accepted_;
};

}  // namespace sluice::test
