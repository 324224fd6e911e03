// What libsluice adds to a packet: nanoseconds from the ring to the program's hand and back, and into the TX
// ring. The daemon's part runs between the measurements.
#include <benchmark/benchmark.h>

#include <array>
#include <chrono>

#include "sluice/sluice.hpp"
#include "test_daemon.h"

namespace sluice {
namespace {

constexpr std::uint32_t kBurst = 64;

struct Attached {
  testing::TestFolder folder;
  testing::TestDaemon daemon{folder.socket(), {.pages = 4096, .rx_entries = 1024, .tx_entries = 1024}};
  Port port = std::move(Port::attach(folder.socket())).value();
  testing::TestSession& worker = daemon.session();
};

template <typename Work>
void measure(benchmark::State& state, Work work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  state.SetIterationTime(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
}

void count_packets(benchmark::State& state) {
  state.SetItemsProcessed(state.iterations() * kBurst);
  state.counters["per_packet"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * kBurst,
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

// A burst is received, each packet's length is looked at, all of them go back with the next receive.
void receive_burst(benchmark::State& state) {
  Attached a;
  std::array<Packet, kBurst> packets;
  const testing::Bytes frame = testing::frame_of(60, 1);
  for (auto _ : state) {
    for (std::uint32_t i = 0; i < kBurst; ++i) {
      a.worker.deliver(frame);
    }
    measure(state, [&] {
      std::size_t bytes = 0;
      for (const Packet& packet : std::span(packets).first(a.port.receive(packets))) {
        bytes += packet.bytes().size();
      }
      benchmark::DoNotOptimize(bytes);
    });
    a.worker.take_back();
  }
  count_packets(state);
}
BENCHMARK(receive_burst)->UseManualTime();

// The same, with every handle going out of scope by itself.
void receive_and_release_one_by_one(benchmark::State& state) {
  Attached a;
  std::array<Packet, kBurst> packets;
  const testing::Bytes frame = testing::frame_of(60, 1);
  for (auto _ : state) {
    for (std::uint32_t i = 0; i < kBurst; ++i) {
      a.worker.deliver(frame);
    }
    measure(state, [&] {
      for (std::size_t i = 0, count = a.port.receive(packets); i < count; ++i) {
        const Packet packet = std::move(packets[i]);
        benchmark::DoNotOptimize(packet.bytes().size());
      }
    });
    a.worker.take_back();
  }
  count_packets(state);
}
BENCHMARK(receive_and_release_one_by_one)->UseManualTime();

void send_burst(benchmark::State& state) {
  Attached a;
  const testing::Bytes frame = testing::frame_of(60, 1);
  std::array<std::span<const std::byte>, kBurst> frames;
  frames.fill(frame);
  for (auto _ : state) {
    measure(state, [&] { benchmark::DoNotOptimize(a.port.send(frames)); });
    a.worker.take_tx();
  }
  count_packets(state);
}
BENCHMARK(send_burst)->UseManualTime();

void receive_nothing(benchmark::State& state) {
  Attached a;
  std::array<Packet, kBurst> packets;
  for (auto _ : state) {
    benchmark::DoNotOptimize(a.port.receive(packets));
  }
}
BENCHMARK(receive_nothing);

}  // namespace
}  // namespace sluice

BENCHMARK_MAIN();
