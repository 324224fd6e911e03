#include "test/support/ping.h"

#include <signal.h>

#include <cstdio>

namespace sluice::test {

PingResult parse_ping(std::string output) {
  PingResult result;
  auto statistics = output.find(" ping statistics ---\n");
  if (statistics != std::string::npos) {
    unsigned long sent = 0, received = 0;
    if (std::sscanf(output.c_str() + statistics,
                    " ping statistics ---\n%lu packets transmitted, %lu received", &sent, &received) == 2) {
      result.sent = sent;
      result.received = received;
    }
  }
  result.output = std::move(output);
  return result;
}

Result<Ping> Ping::start(const NetNs& from, const std::string& address, std::uint32_t interval_ms) {
  Ping ping;
  std::string interval = fmt::format("{}.{:03}", interval_ms / 1000, interval_ms % 1000);
  auto process = from.spawn({"ping", "-q", "-n", "-W", "2", "-i", interval, address});
  if (!process) {
    return std::unexpected(process.error());
  }
  ping.process_ = std::move(*process);
  return ping;
}

PingResult Ping::stop() {
  process_.signal(SIGINT);
  return parse_ping(process_.wait().output);
}

PingResult ping(const NetNs& from, const std::string& address, std::uint32_t count) {
  return parse_ping(from.command(fmt::format("ping -q -n -W 2 -i 0.01 -c {} {}", count, address)).output);
}

}  // namespace sluice::test
