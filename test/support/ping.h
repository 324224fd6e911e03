// Ping: does the kernel's stack behind a NIC still answer, and did it answer every time?
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "test/support/net_ns.h"

namespace sluice::test {

struct PingResult {
  std::uint64_t sent = 0, received = 0;
  std::string output;
  bool lossless() const { return sent > 0 && sent == received; }
};

// What `ping -q` printed.
PingResult parse_ping(std::string output);

// Pings in the background until stop().
class Ping {
 public:
  // `interval_ms` at least 2.
  static Result<Ping> start(const NetNs& from, const std::string& address, std::uint32_t interval_ms = 5);
  PingResult stop();

 private:
  Process process_;
};

// `count` pings, then the result.
PingResult ping(const NetNs& from, const std::string& address, std::uint32_t count = 3);

}  // namespace sluice::test
