// DPDK's net_af_xdp on the same wire: testpmd in rxonly mode, asked what the port received.
#include "base/clock.h"
#include "bench/receivers.h"
#include "test/guest/testpmd.h"

namespace sluice::bench {

namespace {
constexpr std::uint32_t kMbufs = 16384;
}  // namespace

Result<Round> measure_dpdk(const test::NetNs& ns, const std::string& netdev, test::LiveFrames& live) {
  // No huge pages are needed. The driver's fill ring has 4096 entries, however many its queue is given.
  auto testpmd = test::Testpmd::start(
      {.name = "receiver",
       .vdevs = {fmt::format("net_af_xdp0,iface={},start_queue=0,queue_count=1", netdev)},
       .cpu = kReceiverCpu,
       .mode = "rxonly",
       .memory_mb = 256,
       .ring = kDefaultRingEntries,
       .mbufs = kMbufs,
       .more = {"--burst=64"},
       .ns = &ns});
  SLUICE_TRY(testpmd);
  SLUICE_TRY((*testpmd)->ready());
  (*testpmd)->command("start");
  const std::uint64_t before = (*testpmd)->stats().rx_packets, stolen_before = stolen_ms(), begin = now_ns();
  auto sent = live.run();
  SLUICE_TRY(sent);
  Round round;
  round.sent = *sent;
  round.stolen_ms = stolen_ms() - stolen_before;
  const std::uint64_t took = now_ns() - begin;
  // What still lies in its ring is taken while it answers.
  for (std::uint64_t seen = ~0ull; seen != round.received;) {
    seen = round.received;
    round.received = (*testpmd)->stats().rx_packets - before;
  }
  if (round.received == 0) {
    return fail("dpdk-testpmd received nothing: {}", (*testpmd)->log());
  }
  (*testpmd)->quit();
  round.packets_per_second = static_cast<double>(round.received) * 1e9 / static_cast<double>(took);
  return round;
}

}  // namespace sluice::bench
