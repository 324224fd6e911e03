// DPDK's net_af_xdp on the same wire: testpmd in rxonly mode, asked at its end what the port received.
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <regex>
#include <thread>

#include "base/clock.h"
#include "bench/receivers.h"
#include "test/support/process.h"

namespace sluice::bench {

namespace {

// "  RX-packets: 123   RX-missed: 0 ..." of the port's own statistics; the last one printed.
std::uint64_t last_number(const std::string& text, const std::string& name) {
  std::regex pattern(name + ":\\s*([0-9]+)");
  std::uint64_t number = 0;
  for (std::sregex_iterator it(text.begin(), text.end(), pattern), end; it != end; ++it) {
    number = std::stoull((*it)[1]);
  }
  return number;
}

}  // namespace

Result<Round> measure_dpdk(const test::NetNs& ns, const std::string& netdev, test::LiveFrames& live) {
  if (!std::filesystem::exists("/usr/bin/dpdk-testpmd")) {
    return fail("dpdk-testpmd is not installed");
  }
  // Its standard input is a pipe of /bin/sh that closes when we create `stop`; testpmd then prints its
  // statistics.
  std::string stop = fmt::format("/tmp/sluice-bench-dpdk-{}", ::getpid());
  std::filesystem::remove(stop);
  // lcores: 0 is only its command line, 1 forwards. No huge pages are needed.
  std::string command = fmt::format(
      "(while [ ! -e {0} ]; do sleep 0.1; done; echo stop; sleep 0.3; echo quit) | "
      "dpdk-testpmd --lcores '0@{1},1@{2}' --no-pci --no-huge -m 256 --no-shconf --file-prefix=sluicebench "
      "--vdev net_af_xdp0,iface={3},start_queue=0,queue_count=1 -- -i --forward-mode=rxonly "
      "--total-num-mbufs=16384 "
      "--no-mlockall --auto-start --rxd=4096 --txd=512 --burst=64 2>&1",
      stop, kSenderCpu, kReceiverCpu, netdev);
  auto process = ns.spawn({"/bin/sh", "-c", command});
  if (!process) {
    return std::unexpected(process.error());
  }
  // It says nothing that could be waited for without a terminal.
  std::this_thread::sleep_for(std::chrono::seconds(4));  // lint: allow(sleep)
  std::uint64_t begin = now_ns();
  Round round;
  round.sent = live.run().value();
  std::uint64_t took = now_ns() - begin;
  std::this_thread::sleep_for(std::chrono::milliseconds(500));  // lint: allow(sleep): its last bursts
  ::close(::creat(stop.c_str(), 0600));
  test::Finished finished = process->wait();
  std::filesystem::remove(stop);
  round.received = last_number(finished.output, "RX-packets");
  if (round.received == 0) {
    return fail("dpdk-testpmd received nothing: {}",
                finished.output.substr(finished.output.size() > 400 ? finished.output.size() - 400 : 0));
  }
  round.packets_per_second = static_cast<double>(round.received) * 1e9 / static_cast<double>(took);
  return round;
}

}  // namespace sluice::bench
