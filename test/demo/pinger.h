// Pinger: the real ping(8), again and again, from the wire to the NIC's address. Each run ends by itself when
// its last answer is there, so that none is counted lost because the demo stopped looking.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>
#include <thread>

#include "test/demo/promise.h"
#include "test/support/net_ns.h"

namespace sluice::demo {

struct Pings {
  std::uint64_t sent = 0, answered = 0;
  double slowest_ms = 0;

  bool all_answered() const { return sent > 0 && sent == answered; }
  // Into the promise: the figures, and that none was lost.
  void report(Promise& promise) const;
};

class Pinger {
 public:
  // Starts, on `cpu`: the wire's work is all done by one CPU, as the NIC's queues would have it.
  Pinger(const test::NetNs& from, std::string address, unsigned cpu);
  ~Pinger() { stop(); }
  Pinger(const Pinger&) = delete;

  Pings stop();  // after the present run

 private:
  void run(const test::NetNs& from, const std::string& address, unsigned cpu);

  Pings pings_;  // the thread's until it has ended
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace sluice::demo
