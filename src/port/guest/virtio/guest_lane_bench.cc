// What a worker pays for a packet from guest to guest, by ring format and size: transmit and receive
// together, the driver's part not counted.
#include <benchmark/benchmark.h>

#include "port/guest/virtio/guest_workload.h"

namespace sluice::test {
namespace {

constexpr int kTurns = 20'000;  // not by time: a busy machine would make it run for ever

void guest_to_guest(benchmark::State& state, const char* rings) {
  const auto workload = make_guest_workload(rings, static_cast<std::uint32_t>(state.range(0)));
  for (auto _ : state) {
    workload->turn();
  }
  state.counters["lane_ns_per_packet"] = workload->lane_ns_per_packet();
}

BENCHMARK_CAPTURE(guest_to_guest, split, "split")->Arg(64)->Arg(1500)->Iterations(kTurns);
BENCHMARK_CAPTURE(guest_to_guest, in_order, "split_in_order")->Arg(64)->Arg(1500)->Iterations(kTurns);
BENCHMARK_CAPTURE(guest_to_guest, packed, "packed")->Arg(64)->Arg(1500)->Iterations(kTurns);
BENCHMARK_CAPTURE(guest_to_guest, packed_in_order, "packed_in_order")->Arg(64)->Arg(1500)->Iterations(kTurns);

}  // namespace
}  // namespace sluice::test

BENCHMARK_MAIN();
