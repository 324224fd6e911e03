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
constexpr std::uint64_t kGraceNs = 200'000'000;  // after the last packet sent

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
  round.sent = live.wait().value();
  round.packets_per_second = static_cast<double>(round.received) * 1e9 /
                             static_cast<double>(std::max<std::uint64_t>(last - first, 1));
  return round;
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
    arena_ = std::make_unique<Arena>(Arena::create(arena_options).value());
    umem_ = Umem::create(*arena_).value();
    PagePoolOptions pool_options;
    pool_options.name = "bench";
    pool_options.page_count = pages;
    pool_ = PagePool::create(*arena_, pool_options).value();
    queue_ = NicQueue::open(options, *umem_, *pool_).value();
    program_ = bare_redirect__open_and_load();
    std::uint32_t key = 0;
    int fd = queue_->socket_fd();
    bpf_map__update_elem(program_->maps.sockets, &key, sizeof(key), &fd, sizeof(fd), 0);
    link_ = XdpLink::attach(static_cast<int>(::if_nametoindex(netdev.c_str())),
                            bpf_program__fd(program_->progs.redirect_with_metadata))
                .value();
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
  auto nic_ns = test::NetNs::create().value(), wire_ns = test::NetNs::create().value();
  auto pair = test::VethPair::create(nic_ns, wire_ns).value();
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
    auto live = test::LiveFrames::create(pair, options).value();
    Figures bare, ours;
    for (int round = 0; round < kRounds; ++round) {
      {
        auto peer = BareAfXdp::open(pair.options().nic_name, 0, kRing).value();
        bare.rounds.push_back(measure(*live, [&] { return peer->turn(); }));
      }
      SluiceQueue queue(pair.options().nic_name);
      ours.rounds.push_back(measure(*live, [&] { return queue.turn(); }));
    }
    bare.print("bare", bytes);
    ours.print("sluice", bytes);
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
