// veth -> user space: packets per second of one Sluice queue, of bare AF_XDP and of DPDK's net_af_xdp, turn
// by turn on the same wire.
//
// The generator runs on one core (where the kernel then also does the wire's receive work, the XDP program
// and the copy into the socket), the receiver on another. With preferred busy polling the receiver's core
// does the kernel's part as well. All queues have 4096 entries. Figures are the median of the rounds, ratios
// that of the ratios of rounds that followed one another.
#include <bpf/bpf.h>
#include <net/if.h>
#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

#include "bare_redirect.skel.h"
#include "base/clock.h"
#include "bench/busy_poll.h"
#include "bench/measure.h"
#include "bench/receivers.h"
#include "memory/arena.h"
#include "memory/pool.h"
#include "port/nic/queue.h"
#include "port/nic/xdp_link.h"
#include "test/support/live_frames.h"
#include "test/support/veth.h"

namespace sluice::bench {
namespace {

constexpr std::uint32_t kRing = kDefaultRingEntries;
constexpr int kDrainRounds = 8;
constexpr std::uint64_t kDrainPackets = 4000;  // fewer than the ring takes

struct Options {
  bool json = false;
  int rounds = 15;
  std::uint64_t packets = 2'000'000;
  std::string only;
};

// What the world refuses ends the bench with its sentence.
template <typename T>
T or_die(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "nic_bench: %s\n", result.error().message.c_str());
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) {
    return std::move(*result);
  }
}

// The receiver's own cost: a ring that was filled before is emptied. The least of many, so that other load on
// the machine counts little.
double drain_ns_per_packet(test::LiveFrames& few, Receiver& receiver) {
  double least = 1e9;
  for (int round = 0; round < kDrainRounds; ++round) {
    or_die(few.run());
    std::uint64_t packets = 0, begun = now_ns();
    while (std::uint64_t count = receiver.turn()) {
      packets += count;
    }
    std::uint64_t ns = now_ns() - begun;
    if (packets >= kDrainPackets / 2) {
      least = std::min(least, static_cast<double>(ns) / static_cast<double>(packets));
    }
    while (receiver.turn() != 0) {
    }
  }
  return least;
}

class BareQueue final : public Receiver {
 public:
  BareQueue(const std::string& netdev, bool busy_poll)
      : bare_(or_die(open(netdev, {.ring_entries = kRing, .busy_poll = busy_poll}))) {}
  std::uint64_t turn() override { return bare_->turn(); }
  int socket_fd() const { return bare_->socket_fd(); }

 private:
  // The kernel tears down the last round's socket later than close(2); libxdp does not wait for that.
  static Result<std::unique_ptr<BareAfXdp>> open(const std::string& netdev, const BareOptions& options) {
    std::uint64_t deadline = now_ns() + 2'000'000'000;
    auto bare = BareAfXdp::open(netdev, options);
    while (!bare && bare.error().os_errno == EBUSY && now_ns() < deadline) {
      bare = BareAfXdp::open(netdev, options);
    }
    return bare;
  }
  std::unique_ptr<BareAfXdp> bare_;
};

class SluiceQueue final : public Receiver {
 public:
  SluiceQueue(const std::string& netdev, bool busy_poll) : busy_poll_(busy_poll) {
    NicQueueOptions options;
    options.netdev = netdev;
    options.ring_entries = kRing;
    std::uint32_t pages = pages_for_queue(options, 0);
    ArenaOptions arena_options;
    arena_options.name = "bench";
    arena_options.page_count = pages;
    arena_ = std::make_unique<Arena>(or_die(Arena::create(arena_options)));
    umem_ = or_die(Umem::create(*arena_));
    PagePoolOptions pool_options;
    pool_options.name = "bench";
    pool_options.page_count = pages;
    pool_ = or_die(PagePool::create(*arena_, pool_options));
    queue_ = or_die(NicQueue::open(options, *umem_, *pool_));
    if (busy_poll) {
      or_die(prefer_busy_poll(queue_->socket_fd()));
    }
    program_ = bare_redirect__open_and_load();
    std::uint32_t key = 0;
    int fd = queue_->socket_fd();
    bpf_map__update_elem(program_->maps.sockets, &key, sizeof(key), &fd, sizeof(fd), 0);
    link_ = or_die(XdpLink::attach(static_cast<int>(::if_nametoindex(netdev.c_str())),
                                   bpf_program__fd(program_->progs.redirect_with_metadata)));
  }
  ~SluiceQueue() override { bare_redirect__destroy(program_); }
  int socket_fd() const { return queue_->socket_fd(); }

  std::uint64_t turn() override {
    BurstInfo info;
    std::uint32_t count = queue_->burst(packets_, info);
    for (std::uint32_t i = 0; i < count; ++i) {
      touched_ = touched_ + std::to_integer<std::uint64_t>(packets_[i].body[0]);
    }
    queue_->done(std::span(packets_.data(), count));
    queue_->poll();
    if (count == 0 && busy_poll_) {
      ::recvfrom(queue_->socket_fd(), nullptr, 0, MSG_DONTWAIT, nullptr, nullptr);
    }
    return count;
  }

 private:
  bool busy_poll_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Umem> umem_;
  std::unique_ptr<PagePool> pool_;
  std::unique_ptr<NicQueue> queue_;
  bare_redirect* program_ = nullptr;
  XdpLink link_;
  std::array<Packet, kBurst> packets_;
  volatile std::uint64_t touched_ = 0;
};

class NicBench {
 public:
  NicBench(const Options& options, Report& report)
      : options_(options),
        report_(report),
        nic_ns_(test::NetNs::create().value()),
        wire_ns_(test::NetNs::create().value()),
        pair_(test::VethPair::create(nic_ns_, wire_ns_).value()) {
    run_on(kReceiverCpu);
    nic_ns_.enter();
  }

  void run() {
    for (std::size_t bytes : {std::size_t{60}, std::size_t{1500}}) {
      if (options_.only.empty() || fmt::format("nic_{}B", bytes).find(options_.only) != std::string::npos) {
        compare(bytes);
      }
    }
    if (again_ != 0) {
      report_.note(fmt::format(
          "{} rounds were done again, for the host had taken a CPU away (steal in /proc/stat)", again_));
    }
  }

 private:
  void compare(std::size_t bytes) {
    test::UdpFrame udp = pair_.to_nic();
    udp.frame_bytes = bytes;
    test::LiveFramesOptions options;
    options.frame = test::udp_frame(udp);
    options.count = options_.packets;
    options.cpu = kSenderCpu;
    auto live = or_die(test::LiveFrames::create(pair_, options));
    options.count = kDrainPackets;
    few_ = or_die(test::LiveFrames::create(pair_, options));
    drain_ns_.clear();
    Rounds rounds({"bare", "sluice", "dpdk", "bare_busy_poll", "sluice_busy_poll"});
    rounds.run(options_.rounds, [&](const std::string& name) {
      return undisturbed([&] { return one_round(*live, name); }, again_);
    });
    for (const auto& [name, why] : rounds.left_out()) {
      report_.note(fmt::format("{}B {}: {}", bytes, name, why));
    }
    auto row = [&](const char* name, const char* ours, const char* theirs, const char* peer_name) {
      if (rounds.has(ours) && rounds.has(theirs)) {
        report_.add_rates(fmt::format("{}_{}B", name, bytes), rounds.of(ours), rounds.of(theirs), peer_name,
                          0);
      }
    };
    row("nic", "sluice", "bare", "bare AF_XDP");
    row("nic", "sluice", "dpdk", "DPDK net_af_xdp");
    row("nic_busy_poll", "sluice_busy_poll", "bare_busy_poll", "bare, busy poll");
    row("nic_busy_poll", "sluice_busy_poll", "sluice", "Sluice without");
    row("bare_busy_poll", "bare_busy_poll", "bare", "bare without");
    report_.add(fmt::format("nic_drain_{}B", bytes), "ns ", drain_ns_["sluice"], drain_ns_["bare"],
                "bare AF_XDP", 0, true);
  }

  Result<Round> one_round(test::LiveFrames& live, const std::string& name) {
    const std::string& netdev = pair_.options().nic_name;
    if (name == "dpdk") {
      return measure_dpdk(nic_ns_, netdev, live);
    }
    const bool busy_poll = name.ends_with("busy_poll");
    if (name.starts_with("bare")) {
      BareQueue bare(netdev, busy_poll);
      return busy_poll ? busy_round(live, bare, bare.socket_fd()) : plain_round(live, bare, name);
    }
    SluiceQueue queue(netdev, busy_poll);
    return busy_poll ? busy_round(live, queue, queue.socket_fd()) : plain_round(live, queue, name);
  }

  Round plain_round(test::LiveFrames& live, Receiver& receiver, const std::string& name) {
    const Round round = measure(live, receiver);
    const double ns = drain_ns_per_packet(*few_, receiver);
    const auto [least, first] = drain_ns_.try_emplace(name, ns);
    least->second = std::min(least->second, ns);
    return round;
  }

  Result<Round> busy_round(test::LiveFrames& live, Receiver& receiver, int socket_fd) {
    const std::string& netdev = pair_.options().nic_name;
    SLUICE_TRY(defer_interrupts(netdev, {}));
    const Round round = measure(live, receiver);
    SLUICE_TRY(defer_interrupts(netdev, {.hard_irqs = 0, .flush_ns = 0}));
    if (napi_of(socket_fd) == 0) {
      return fail("the driver does not tell this kernel which NAPI serves the queue, so nobody can poll it");
    }
    return round;
  }

  const Options& options_;
  Report& report_;
  test::NetNs nic_ns_, wire_ns_;
  test::VethPair pair_;
  std::unique_ptr<test::LiveFrames> few_;
  std::map<std::string, double> drain_ns_;  // least of all rounds
  std::uint32_t again_ = 0;
};

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  using namespace sluice::bench;
  Options options;
  CLI::App app(
      "A NIC's queue: packets per second beside bare AF_XDP and DPDK, with and without busy polling.");
  app.add_flag("--json", options.json);
  app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 99))->capture_default_str();
  app.add_option("--packets", options.packets, "per round")->capture_default_str();
  app.add_option("--only", options.only, "a part of the bench by name: nic_60B or nic_1500B");
  CLI11_PARSE(app, argc, argv);
  if (std::string why = sluice::test::why_no_root_and_xdp(); !why.empty()) {
    std::fprintf(stderr, "nic_bench: %s\n", why.c_str());
    return 2;
  }
  Report report(options.json);
  NicBench bench(options, report);
  bench.run();
  return report.finish();
}
