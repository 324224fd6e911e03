// veth -> user space: packets per second of one Sluice queue and of bare AF_XDP, turn by turn on the same
// wire.
//
// The generator runs on one core (where the kernel then also does the wire's receive work, the XDP program
// and the copy into the socket), the receiver on another. A round is good when nothing was lost. Figures are
// the median of the rounds.
#include <bpf/bpf.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "bare_redirect.skel.h"
#include "base/clock.h"
#include "bench/bare_af_xdp.h"
#include "memory/arena.h"
#include "memory/pool.h"
#include "port/nic/queue.h"
#include "port/nic/xdp_link.h"
#include "test/support/live_frames.h"
#include "test/support/veth.h"

namespace sluice::bench {
namespace {

constexpr std::uint32_t kRing = 4096;
constexpr int kRounds = 5;
constexpr int kDrainRounds = 40;
constexpr std::uint64_t kDrainPackets = 4000;    // fewer than the ring takes
constexpr std::uint64_t kGraceNs = 200'000'000;  // after the last packet sent

// What the world refuses ends the bench with its sentence.
template <typename T>
T must(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "nic_bench: %s\n", result.error().message.c_str());
    std::exit(1);
  }
  return std::move(*result);
}

struct Round {
  double packets_per_second = 0;
  std::uint64_t sent = 0, received = 0;
};

Round measure(test::LiveFrames& live, const std::function<std::uint32_t()>& turn) {
  Round round;
  live.start();
  std::uint64_t first = 0, last = 0, ended = 0;
  for (;;) {
    std::uint32_t count = turn();
    if (count != 0) {
      last = now_ns();
      first = first == 0 ? last : first;
      round.received += count;
    } else if (!live.running()) {
      ended = ended == 0 ? now_ns() : ended;
      if (now_ns() - std::max(ended, last) > kGraceNs) {
        break;
      }
    }
  }
  round.sent = must(live.wait());
  round.packets_per_second = static_cast<double>(round.received) * 1e9 /
                             static_cast<double>(std::max<std::uint64_t>(last - first, 1));
  return round;
}

// The receiver's own cost: a ring that was filled before is emptied. The least of many rounds, so that other
// load on the machine counts little.
double drain_ns_per_packet(test::LiveFrames& few, const std::function<std::uint32_t()>& turn) {
  double least = 1e9;
  for (int round = 0; round < kDrainRounds; ++round) {
    must(few.run());
    std::uint64_t packets = 0, begun = now_ns();
    while (std::uint32_t count = turn()) {
      packets += count;
    }
    std::uint64_t ns = now_ns() - begun;
    if (packets >= kDrainPackets / 2) {
      least = std::min(least, static_cast<double>(ns) / static_cast<double>(packets));
    }
    while (turn() != 0) {
    }
  }
  return least;
}

// The kernel tears down the last round's socket later than close(2); libxdp does not wait for that.
std::unique_ptr<BareAfXdp> open_bare(const std::string& netdev) {
  std::uint64_t deadline = now_ns() + 2'000'000'000;
  auto bare = BareAfXdp::open(netdev, 0, kRing);
  while (!bare && bare.error().os_errno == EBUSY && now_ns() < deadline) {
    bare = BareAfXdp::open(netdev, 0, kRing);
  }
  return must(std::move(bare));
}

class SluiceQueue {
 public:
  SluiceQueue(const std::string& netdev) {
    NicQueueOptions options;
    options.netdev = netdev;
    options.ring_entries = kRing;
    std::uint32_t pages = pages_for_queue(options, 0);
    ArenaOptions arena_options;
    arena_options.name = "bench";
    arena_options.page_count = pages;
    arena_ = std::make_unique<Arena>(must(Arena::create(arena_options)));
    umem_ = must(Umem::create(*arena_));
    PagePoolOptions pool_options;
    pool_options.name = "bench";
    pool_options.page_count = pages;
    pool_ = must(PagePool::create(*arena_, pool_options));
    queue_ = must(NicQueue::open(options, *umem_, *pool_));
    program_ = bare_redirect__open_and_load();
    std::uint32_t key = 0;
    int fd = queue_->socket_fd();
    bpf_map__update_elem(program_->maps.sockets, &key, sizeof(key), &fd, sizeof(fd), 0);
    link_ = must(XdpLink::attach(static_cast<int>(::if_nametoindex(netdev.c_str())),
                                 bpf_program__fd(program_->progs.redirect_with_metadata)));
  }
  ~SluiceQueue() { bare_redirect__destroy(program_); }

  std::uint32_t turn() {
    Source source;
    std::uint32_t count = queue_->receive(packets_, source);
    for (std::uint32_t i = 0; i < count; ++i) {
      touched_ = touched_ + std::to_integer<std::uint64_t>(packets_[i].body[0]);
    }
    queue_->recycle(std::span(packets_.data(), count));
    queue_->poll();
    return count;
  }

 private:
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Umem> umem_;
  std::unique_ptr<PagePool> pool_;
  std::unique_ptr<NicQueue> queue_;
  bare_redirect* program_ = nullptr;
  XdpLink link_;
  std::array<Packet, kBurst> packets_;
  volatile std::uint64_t touched_ = 0;
};

struct Figures {
  std::vector<Round> rounds;
  void print(const char* name, std::size_t bytes) {
    std::sort(rounds.begin(), rounds.end(),
              [](const Round& a, const Round& b) { return a.packets_per_second < b.packets_per_second; });
    std::uint64_t sent = 0, received = 0;
    for (const Round& round : rounds) {
      sent += round.sent;
      received += round.received;
    }
    std::printf("%-10s %4zu B  %6.3f M/s (%.3f .. %.3f)  sent %lu lost %lu\n", name, bytes, median() / 1e6,
                rounds.front().packets_per_second / 1e6, rounds.back().packets_per_second / 1e6, sent,
                sent - received);
  }
  double median() const { return rounds[rounds.size() / 2].packets_per_second; }
};

int run(std::uint64_t packets) {
  if (std::string why = test::why_no_root_and_xdp(); !why.empty()) {
    std::fprintf(stderr, "nic_bench: %s\n", why.c_str());
    return 2;
  }
  auto nic_ns = must(test::NetNs::create()), wire_ns = must(test::NetNs::create());
  auto pair = must(test::VethPair::create(nic_ns, wire_ns));
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(1, &cpus);
  ::pthread_setaffinity_np(::pthread_self(), sizeof(cpus), &cpus);
  nic_ns.enter();
  for (std::size_t bytes : {std::size_t{60}, std::size_t{1500}}) {
    test::UdpFrame udp = pair.to_nic();
    udp.frame_bytes = bytes;
    test::LiveFramesOptions options;
    options.frame = test::udp_frame(udp);
    options.count = packets;
    options.cpu = 0;
    auto live = must(test::LiveFrames::create(pair, options));
    options.count = kDrainPackets;
    auto few = must(test::LiveFrames::create(pair, options));
    double bare_drain = 1e9, our_drain = 1e9;
    Figures bare, ours;
    for (int round = 0; round < kRounds; ++round) {
      {
        auto peer = open_bare(pair.options().nic_name);
        bare.rounds.push_back(measure(*live, [&] { return peer->turn(); }));
        bare_drain = std::min(bare_drain, drain_ns_per_packet(*few, [&] { return peer->turn(); }));
      }
      SluiceQueue queue(pair.options().nic_name);
      ours.rounds.push_back(measure(*live, [&] { return queue.turn(); }));
      our_drain = std::min(our_drain, drain_ns_per_packet(*few, [&] { return queue.turn(); }));
    }
    bare.print("bare", bytes);
    ours.print("sluice", bytes);
    std::printf("receiver's own cost, ns per packet: bare %.1f sluice %.1f\n", bare_drain, our_drain);
    std::printf("ratio      %4zu B  %.3f\n", bytes, ours.median() / bare.median());
  }
  return 0;
}

}  // namespace
}  // namespace sluice::bench

// nic_bench [packets per round]
int main(int argc, char** argv) {
  return sluice::bench::run(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 4'000'000);
}
