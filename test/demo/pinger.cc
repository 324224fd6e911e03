#include "test/demo/pinger.h"

#include <cstdio>

#include "test/demo/child.h"
#include "test/support/ping.h"

namespace sluice::demo {

namespace {

constexpr const char* kPingsPerRun = "25";  // at 100 a second

double slowest_ms(const std::string& output) {
  double least = 0, mean = 0, most = 0;
  const auto at = output.find("rtt min/avg/max/mdev = ");
  if (at != std::string::npos) {
    std::sscanf(output.c_str() + at, "rtt min/avg/max/mdev = %lf/%lf/%lf", &least, &mean, &most);
  }
  return most;
}

}  // namespace

void Pings::report(Promise& promise) const {
  promise.figure("pings_sent", sent);
  promise.figure("pings_answered", answered);
  promise.figure("slowest_ping_ms", slowest_ms);
  promise.require(all_answered(),
                  "ping lost answers: the kernel's stack behind the NIC was not reached every time");
}

Pinger::Pinger(const test::NetNs& from, std::string address, unsigned cpu)
    : thread_([this, &from, address = std::move(address), cpu] { run(from, address, cpu); }) {}

Pings Pinger::stop() {
  stop_ = true;
  if (thread_.joinable()) {
    thread_.join();
  }
  return pings_;
}

void Pinger::run(const test::NetNs& from, const std::string& address, unsigned cpu) {
  run_on(cpu);
  while (!stop_) {
    // On a leash: a demo that is killed leaves no ping behind.
    auto process =
        from.spawn(leashed({"ping", "-q", "-n", "-W", "2", "-i", "0.01", "-c", kPingsPerRun, address}));
    const test::PingResult result =
        test::parse_ping(process ? process->wait().output : process.error().message);
    pings_.sent += std::max<std::uint64_t>(result.sent, 1);  // a ping that did not even start is a lost one
    pings_.answered += result.received;
    pings_.slowest_ms = std::max(pings_.slowest_ms, slowest_ms(result.output));
  }
}

}  // namespace sluice::demo
