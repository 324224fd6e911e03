// What the worker adds to a packet: nanoseconds of grouping, deciding, calling and counting, with lanes and a
// queue that do nothing themselves. "ports" is how many destinations a burst of 64 has.
//
// route_burst: what the switch adds to a frame that a guest sends. "members" is how many ports it knows,
// "flows" how many of them a burst of 64 goes to, in turn: with 1 every frame but the first finds the answer
// of the one before it.
#include <benchmark/benchmark.h>

#include "demux/packet_builder.h"
#include "worker/forward/forward_workload.h"
#include "worker/forward/ingress_rules.h"
#include "worker/forward/switch.h"

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

constexpr PortId kNic{1000};

MacAddress mac_of(std::uint32_t n) {
  return {2, 0, 0, 0, static_cast<std::uint8_t>(n >> 8), static_cast<std::uint8_t>(n)};
}

Switch switch_of(std::uint32_t members) {
  std::vector<SwitchPort> list;
  for (std::uint32_t i = 0; i < members; ++i) {
    list.push_back({.port = PortId{static_cast<std::uint16_t>(2 + i)}, .uplink = kNic, .macs = {mac_of(i)}});
  }
  return Switch(std::move(list));
}

// Frames of member 0 to `flows` others; UDP to ports 1, 2, 3 ...
struct Burst {
  std::vector<testing::Bytes> frames;
  std::array<Packet, kBurst> packets;
  explicit Burst(std::uint32_t flows) {
    for (std::uint32_t i = 0; i < kBurst; ++i) {
      frames.push_back(testing::PacketBuilder()
                           .macs(mac_of(1 + i % flows), mac_of(0))
                           .ipv4("10.0.0.1", "10.0.0.2")
                           .udp(1, static_cast<std::uint16_t>(1 + i % flows))
                           .build(60));
    }
    for (std::uint32_t i = 0; i < kBurst; ++i) {
      packets[i] = Packet{
          .head = reinterpret_cast<const std::byte*>(frames[i].data()), .head_bytes = 60, .port = kNic};
    }
  }
};

void route(benchmark::State& state, const Switch& switching, std::uint32_t flows) {
  Burst burst(flows);
  const BurstInfo info{.domain = DomainId{2}, .port = PortId{2}, .uplink = kNic};
  for (auto _ : state) {
    for (Packet& packet : burst.packets) {
      packet.port = kNic;  // what a lane writes
    }
    switching.route(WorkerId{0}, info, burst.packets);
    benchmark::DoNotOptimize(burst.packets);
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * kBurst);
  state.counters["per_packet"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * kBurst,
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void route_burst(benchmark::State& state) {
  route(state, switch_of(static_cast<std::uint32_t>(state.range(0))),
        static_cast<std::uint32_t>(state.range(1)));
}
BENCHMARK(route_burst)
    ->ArgNames({"members", "flows"})
    ->Args({2, 1})
    ->Args({64, 1})
    ->Args({64, 63})
    ->Args({500, 63});

// The same with rules for what the port sends: "rules" of one mask that match, or one for everything.
void route_burst_by_rules(benchmark::State& state) {
  Switch switching = switch_of(64);
  std::vector<Rule> rules;
  if (state.range(0) == 1) {
    rules.push_back({.match = {}, .port = PortId{900}, .slot = RuleSlot{0}});
  } else {
    for (std::uint16_t i = 0; i < state.range(0); ++i) {
      rules.push_back({.match = parse_match(fmt::format("ip_proto udp dst_port {}", i + 1)).value(),
                       .port = PortId{900},
                       .slot = RuleSlot{i}});
    }
  }
  switching.set_ingress_rules(PortId{2},
                              PortIngressRules::create(rules, std::make_shared<IngressCounts>(1)).value());
  route(state, switching, 63);
}
BENCHMARK(route_burst_by_rules)->ArgName("rules")->Arg(1)->Arg(100)->Arg(10'000);

}  // namespace
}  // namespace sluice

BENCHMARK_MAIN();
