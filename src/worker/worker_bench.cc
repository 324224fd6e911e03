// What the worker adds to a packet: nanoseconds of grouping, deciding, calling and counting, with lanes and a
// queue that do nothing themselves. "ports" is how many destinations a burst of 64 has.
#include <benchmark/benchmark.h>

#include "worker/forward_workload.h"

namespace sluice {
namespace {

void forward_burst(benchmark::State& state) {
  ForwardWorkload workload(static_cast<std::uint32_t>(state.range(0)));
  for (auto _ : state) {
    workload.turn();
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * kBurst);
  state.counters["per_packet"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * kBurst,
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}
BENCHMARK(forward_burst)->ArgName("ports")->Arg(1)->Arg(4)->Arg(64);

}  // namespace
}  // namespace sluice

BENCHMARK_MAIN();
