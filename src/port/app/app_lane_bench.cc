// What a packet costs on its way to an app and back: worker's and app's side one after the other on one
// thread, so the sum of both. A real session (socket, memfds, ledger), the wire replaced by a hot frame.
#include <fmt/format.h>

#include <array>
#include <cstdlib>
#include <ctime>

#include "port/app/app_peer.h"
#include "port/app/app_port.h"
#include "port/burst_of.h"
#include "port/fake_services.h"

namespace sluice {
namespace {

class Engine final : public test::FakeServices {
 public:
  void install_lane(PortId, WorkerId, Lane* its_lane) override { lane = its_lane; }
  Result<void> open_queues(PortId, Arena& opened, std::span<PagePool* const> pools) override {
    arena = &opened;
    pool = pools[0];
    return {};
  }
  Lane* lane = nullptr;
  Arena* arena = nullptr;
  PagePool* pool = nullptr;
};

constexpr int kRounds = 200'000;
volatile std::uint64_t sink;

// The app's side: read every entry, touch the frame, give the page back.
void read_and_return(test::AppPeer& peer) {
  auto& lane = peer.lanes[0];
  std::uint32_t count = lane.rx.peek(kBurst);
  std::uint32_t room = lane.back.reserve(count);
  std::uint64_t sum = 0;
  for (std::uint32_t i = 0; i < room; ++i) {
    sluice_rx_entry entry = lane.rx.read(i);
    sum += static_cast<std::uint64_t>(peer.frame(entry)[12]);
    lane.back.entry(i) = entry.page;
  }
  lane.rx.release(room);
  lane.back.submit(room);
  sink = sum;
}

// CPU time of this thread: what others do on the machine is not the packet's cost.
std::uint64_t cpu_ns() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(time.tv_nsec);
}

template <typename Round>
void measure(const char* name, Round round) {
  for (int i = 0; i < kRounds / 10; ++i) {
    round();
  }
  std::uint64_t begin = cpu_ns();
  for (int i = 0; i < kRounds; ++i) {
    round();
  }
  double ns = static_cast<double>(cpu_ns() - begin) / kRounds / kBurst;
  fmt::print("{:<28} {:6.1f} ns of CPU per packet\n", name, ns);
}

int run() {
  char path[] = "/tmp/sluice-app-bench-XXXXXX";
  AppPortOptions options{.id = PortId{5}, .name = "bench", .socket = std::string(::mkdtemp(path)) + "/s"};
  options.source_macs = {{2, 0, 0, 0, 0, 1}};
  options.uplink = PortId{9};
  options.workers = {WorkerId{0}};
  options.worker_sends = {true};
  options.owned = {{.worker = WorkerId{0}, .pages = 4096}};
  auto loop = std::move(EventLoop::create().value());
  Engine engine;
  auto port = AppPort::create(options, *loop, engine.services());
  if (!port) {
    fmt::print(stderr, "{}\n", port.error().message);
    return 1;
  }
  UniqueFd socket = test::connect_to(options.socket);
  sluice_app_hello hello = test::good_hello("bench");
  test::send_raw(socket.get(), &hello, sizeof(hello));
  std::optional<test::Answer> answer;
  while (!(answer = test::read_answer(socket.get()))) {
    loop->turn(10);
  }
  {
    test::AppPeer peer(std::move(socket), std::move(*answer));
    while (!peer.take_served()) {
      loop->turn(10);
    }
    std::array<Packet, kBurst> packets;
    for (std::uint32_t bytes : {60u, 1514u}) {
      std::array<std::byte, 2048> frame{};
      measure(fmt::format("copied, {} bytes", bytes).c_str(), [&] {
        for (Packet& packet : packets) {
          packet = {.body = frame.data(), .body_bytes = bytes, .page = PageIndex{0}, .port = options.id};
        }
        engine.lane->copy_in({}, packets);
        engine.lane->poll();
        read_and_return(peer);
      });
    }
    measure("handed over, 60 bytes", [&] {
      for (Packet& packet : packets) {
        PageIndex page = engine.pool->alloc();
        packet = {.body = engine.arena->page(page) + 256, .body_bytes = 60, .page = page, .port = options.id};
      }
      engine.lane->hand_over({.domain = domain_of(options.id)}, packets);
      engine.lane->poll();
      read_and_return(peer);
    });
    engine.lane->poll();
    std::byte* tx = peer.tx_arena();
    for (std::uint32_t i = 0; i < peer.welcome.tx_entries; ++i) {
      std::memcpy(tx + i * peer.welcome.tx_slot_bytes + 6, options.source_macs[0].data(), 6);
    }
    measure("sent, 60 bytes", [&] {
      auto& ring = peer.lanes[0].tx;
      std::uint32_t room = ring.reserve(kBurst);
      for (std::uint32_t i = 0; i < room; ++i) {
        std::uint32_t slot = (ring.produced() + i) & (peer.welcome.tx_entries - 1);
        ring.entry(i) = {.offset = slot * peer.welcome.tx_slot_bytes, .length = 60};
      }
      ring.submit(room);
      engine.lane->done(std::span(packets).first(burst_of(*engine.lane, packets)));
      engine.lane->poll();
    });
  }
  std::string folder = path;
  port->reset();
  ::rmdir(folder.c_str());
  return 0;
}

}  // namespace
}  // namespace sluice

int main() {
  return sluice::run();
}
