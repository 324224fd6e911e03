// Guests: Sluice's vhost-user back-end beside DPDK's net_vhost, behind the same front-ends (DPDK's
// virtio_user), on the same cores, in one run.
//
//   loop   testpmd on CPU 0 sends frames that the back-end on CPU 1 gives back to it
//   pair   testpmd on CPU 0 has two devices, and the back-end carries frames from each to the other
//   nic    CPU 0 makes frames on the wire (BPF_PROG_RUN, live frames) and receives as the guest in turn; the
//          back-end on CPU 1 carries them from nic0 (veth) to it. Making a frame and the kernel's part cost
//          CPU 0 more than either back-end takes for it: this is what a user gets, and says little about them
//   pair_burst, nic_burst
//          the same with the back-end held (SIGSTOP) while frames gather in the ring that it reads: what it
//          then makes of them, from the guest's first packets to its last. CPU 0 has nothing else to do
//
// Both back-ends have their core for themselves and never sleep on it. In the rows `default` Sluice's config
// has no key that it need not have, so its worker is pinned nowhere and naps for 50 us whenever the rings are
// empty: with 128 frames that go round that alone is a limit of 2.5 M/s.
//
// Rounds alternate, so that drift of the machine hits all alike; a figure is the median of its rounds, a
// ratio that of the ratios of rounds that followed one another. Rounds in which the host took a CPU away are
// done again.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>
#include <thread>

#include "base/clock.h"
#include "bench/dpdk_guest.h"
#include "bench/guest_back_ends.h"
#include "bench/measure.h"
#include "test/support/eventually.h"
#include "test/support/huge_pages.h"

namespace sluice::bench {
namespace {

using Pages = test::TestpmdOptions::Pages;
constexpr std::uint64_t kHugePages =
    (256 + 192 + 128) / 2 + 32;              // front-end, back-end, this process; 2 MiB each
constexpr std::uint64_t kChunk = 512;        // frames on the wire before the guest looks
constexpr std::uint32_t kDeepRing = 1024;    // holds more than one chunk
constexpr std::uint64_t kHeld = 1536;        // frames that wait for the back-end: fewer than its ring of 2048
constexpr std::uint64_t kHeldOfGuest = 960;  // of a guest: fewer than its ring of 1024
constexpr std::uint64_t kBurstTimeoutNs = 50'000'000;

struct Options {
  bool json = false;
  int rounds = 3;
  std::uint32_t seconds = 2;
  std::uint32_t bursts = 4;
  std::string idle = "spin";
  std::string only;
};

struct Form {
  const char* name;
  bool packed, in_order;
  bool usual;  // what a guest has when neither side was told anything
};
constexpr Form kForms[] = {
    {"split", false, false, true}, {"in_order", false, true, false}, {"packed", true, false, false}};

struct Case {
  std::string name;
  double goal;
  Job job;
  bool with_defaults = false;  // also with a Sluice at default settings
};

class GuestBench {
 public:
  GuestBench(const Options& options, Report& report)
      : options_(options),
        report_(report),
        nic_ns_(test::NetNs::create().value()),
        wire_ns_(test::NetNs::create().value()),
        pair_(test::VethPair::create(nic_ns_, wire_ns_).value()) {
    auto huge = test::HugePages::reserve(kHugePages);
    if (huge) {
      huge_.emplace(std::move(*huge));
      pages_ = Pages::kHuge;
    } else {
      report_.note(huge.error().message + ": everything runs on small ones");
    }
  }

  void run() {
    for (std::uint32_t bytes : {64u, 1500u}) {
      for (const Form& form : kForms) {
        compare({fmt::format("loop_{}B_{}", bytes, form.name), 1.0, Job::kLoop, form.usual},
                [&](const BackEnd& back_end) { return loop(back_end, form, bytes); });
      }
    }
    for (std::uint32_t bytes : {64u, 1500u}) {
      for (const Form& form : kForms) {
        compare({fmt::format("pair_{}B_{}", bytes, form.name), 1.3, Job::kPair, form.usual},
                [&](const BackEnd& back_end) { return pair(back_end, form, bytes); });
      }
    }
    for (std::size_t bytes : {std::size_t{64}, std::size_t{1500}}) {
      for (const Form& form : kForms) {
        compare({fmt::format("pair_burst_{}B_{}", bytes, form.name), 1.3, Job::kPair},
                [&](const BackEnd& back_end) { return burst_of_pair(back_end, form, bytes); });
      }
    }
    for (std::size_t bytes : {std::size_t{60}, std::size_t{1500}}) {
      compare({fmt::format("nic_{}B", bytes), 1.5, Job::kFromNic, true},
              [&](const BackEnd& back_end) { return from_nic(back_end, bytes); });
      compare({fmt::format("nic_burst_{}B", bytes), 1.5, Job::kFromNic},
              [&](const BackEnd& back_end) { return burst_from_nic(back_end, bytes); });
    }
    if (again_ != 0) {
      report_.note(fmt::format(
          "{} rounds were done again, for the host had taken a CPU away (steal in /proc/stat)", again_));
    }
  }

 private:
  using Measurement = std::function<Result<Round>(const BackEnd&)>;

  void compare(const Case& what, const Measurement& measurement) {
    if (!options_.only.empty() && what.name.find(options_.only) == std::string::npos) {
      return;
    }
    Rounds rounds(what.with_defaults ? std::vector<std::string>{"sluice", "net_vhost", "default"}
                                     : std::vector<std::string>{"sluice", "net_vhost"});
    rounds.run(options_.rounds, [&](const std::string& name) {
      return undisturbed([&] { return one_round(name, what.job, measurement); }, again_);
    });
    for (const auto& [name, why] : rounds.left_out()) {
      report_.note(fmt::format("{}: {}: {}", what.name, name, why));
    }
    row(what, rounds, "sluice", "guest_" + what.name, what.goal);
    row(what, rounds, "default", "guest_default_" + what.name, 0);
  }

  void row(const Case& what, const Rounds& rounds, const std::string& name, const std::string& row_name,
           double goal) {
    if (!rounds.has(name) || !rounds.has("net_vhost")) {
      return;
    }
    const std::vector<Round>&ours = rounds.of(name), &theirs = rounds.of("net_vhost");
    const Figure our = median(ours), their = median(theirs);
    const PairedRatio ratio = paired_ratios(ours, theirs);
    nlohmann::json more = {{"ratio", ratio.median}, {"ratio_low", ratio.low}, {"ratio_high", ratio.high}};
    if (what.job == Job::kFromNic) {
      more.update({{"not_received", our.lost}, {"sent", our.sent}, {"peer_not_received", their.lost}});
    }
    report_.add(row_name, "M/s", our.packets_per_second / 1e6, their.packets_per_second / 1e6,
                what.job == Job::kFromNic ? "net_af_xdp+vhost" : "DPDK net_vhost", goal, false, more);
  }

  Result<Round> one_round(const std::string& name, Job job, const Measurement& measurement) {
    run_anywhere();  // what is started here inherits this; each pins itself where it says
    const BackEndOptions options{.job = job,
                                 .ns = &nic_ns_,
                                 .pages = pages_,
                                 .idle = options_.idle,
                                 .default_settings = name == "default"};
    auto back_end = name == "net_vhost" ? start_net_vhost(options) : start_sluice(options);
    SLUICE_TRY(back_end);
    const std::uint64_t stolen_before = stolen_ms();
    auto round = measurement(**back_end);
    if (!round) {
      return fail("{}\n{}", round.error().message, (*back_end)->log());
    }
    round->stolen_ms = stolen_ms() - stolen_before;
    // Where frames go round, fewer of them would be slower without saying so.
    if (std::string losses = (*back_end)->losses(); job != Job::kFromNic && !losses.empty()) {
      report_.note(fmt::format("frames were lost: {}", losses));
    }
    return round;
  }

  // A front-end on CPU 0 with `devices` devices, in io mode: what comes in by one goes out by the other.
  Result<std::unique_ptr<test::Testpmd>> front_end(const BackEnd& back_end, const Form& form, int devices) {
    test::TestpmdOptions options{
        .name = "front", .cpu = kSenderCpu, .mode = "io", .pages = pages_, .memory_mb = 256, .mbufs = 32768};
    for (int i = 0; i < devices; ++i) {
      options.vdevs.push_back(test::vdev({.socket = back_end.socket(i),
                                          .mac = kGuestMacs[i],
                                          .packed = form.packed,
                                          .in_order = form.in_order,
                                          .mrg_rxbuf = true},
                                         static_cast<std::uint32_t>(i)));
      options.more.push_back(fmt::format("--eth-peer={},{}", i, kGuestMacs[(i + 1) % devices]));
    }
    auto testpmd = test::Testpmd::start(options);
    SLUICE_TRY(testpmd);
    if (auto ready = (*testpmd)->ready(); !ready) {
      return std::unexpected(ready.error());
    }
    return testpmd;
  }

  // What it receives in a second by all its devices, once frames go round.
  Result<Round> circulate(test::Testpmd& front, std::uint32_t bytes, std::uint32_t devices) {
    front.command(fmt::format("set txpkts {}", bytes));
    front.command(fmt::format("start tx_first {}", options_.bursts));
    Round round;
    for (int asked = 0; asked < 2; ++asked) {
      round.packets_per_second = 0;
      for (std::uint32_t device = 0; device < devices; ++device) {
        round.packets_per_second += static_cast<double>(front.stats(device).rx_per_second);
      }
      if (asked == 0) {
        std::this_thread::sleep_for(std::chrono::seconds(options_.seconds));  // lint: allow(sleep): measured
      }
    }
    if (round.packets_per_second == 0) {
      return fail("nothing goes round: {}", front.log());
    }
    front.quit();
    return round;
  }

  Result<Round> loop(const BackEnd& back_end, const Form& form, std::uint32_t bytes) {
    auto front = front_end(back_end, form, 1);
    SLUICE_TRY(front);
    return circulate(**front, bytes, 1);
  }

  Result<Round> pair(const BackEnd& back_end, const Form& form, std::uint32_t bytes) {
    auto front = front_end(back_end, form, 2);
    SLUICE_TRY(front);
    return circulate(**front, bytes, 2);
  }

  // The wire and the guest behind `back_end`, both on CPU 0, once frames go all the way.
  struct WireAndGuest {
    std::unique_ptr<test::LiveFrames> live;
    std::unique_ptr<Guest> guest;
  };
  Result<WireAndGuest> wire_and_guest(const BackEnd& back_end, std::size_t bytes) {
    run_on(kSenderCpu);
    auto guest =
        open_dpdk_guest({.socket = back_end.socket(0), .mac = kGuestMacs[0], .queue_size = kDeepRing},
                        pages_ == Pages::kHuge);
    SLUICE_TRY(guest);
    test::UdpFrame udp = pair_.to_nic();
    udp.destination = {0x52, 0x54, 0, 0, 0, 1};
    udp.frame_bytes = bytes;
    auto live = test::LiveFrames::create(pair_, {.frame = test::udp_frame(udp)});
    SLUICE_TRY(live);
    test::NetNs::Inside inside(wire_ns_);
    if (!test::eventually([&] { return (*live)->step(1) && (*guest)->turn() > 0; })) {
      return fail("nothing comes to the guest");
    }
    return WireAndGuest{std::move(*live), std::move(*guest)};
  }

  Result<Round> from_nic(const BackEnd& back_end, std::size_t bytes) {
    auto parts = wire_and_guest(back_end, bytes);
    SLUICE_TRY(parts);
    test::NetNs::Inside inside(wire_ns_);
    Round round;
    const std::uint64_t begun = now_ns(), end = begun + options_.seconds * 1'000'000'000ull;
    while (now_ns() < end) {
      auto sent = parts->live->step(kChunk);
      SLUICE_TRY(sent);
      round.sent += *sent;
      for (std::uint64_t count = 1; count != 0;) {
        count = parts->guest->turn();
        round.received += count;
      }
    }
    round.packets_per_second =
        static_cast<double>(round.received) * 1e9 / static_cast<double>(now_ns() - begun);
    return round;
  }

  Result<Round> burst_from_nic(const BackEnd& back_end, std::size_t bytes) {
    auto parts = wire_and_guest(back_end, bytes);
    SLUICE_TRY(parts);
    test::NetNs::Inside inside(wire_ns_);
    return bursts(back_end, *parts->guest, [&] { return parts->live->step(kHeld); });
  }

  Result<Round> burst_of_pair(const BackEnd& back_end, const Form& form, std::size_t bytes) {
    run_on(kSenderCpu);
    std::array<std::unique_ptr<Guest>, 2> guests;
    for (std::size_t i = 0; i < guests.size(); ++i) {
      auto guest = open_dpdk_guest({.socket = back_end.socket(static_cast<int>(i)),
                                    .mac = kGuestMacs[i],
                                    .queue_size = kDeepRing,
                                    .packed = form.packed,
                                    .in_order = form.in_order},
                                   pages_ == Pages::kHuge);
      SLUICE_TRY(guest);
      guests[i] = std::move(*guest);
    }
    test::UdpFrame udp;
    udp.source = {0x52, 0x54, 0, 0, 0, 1};
    udp.destination = {0x52, 0x54, 0, 0, 0, 2};
    udp.frame_bytes = bytes;
    const test::Frame frame = test::udp_frame(udp);
    if (!test::eventually([&] { return guests[0]->send(frame, 1) == 1 && guests[1]->turn() > 0; })) {
      return fail("nothing comes to the other guest");
    }
    return bursts(back_end, *guests[1],
                  [&]() -> Result<std::uint64_t> { return guests[0]->send(frame, kHeldOfGuest); });
  }

  // What `send` leaves for the held back-end comes to `guest`: the median of the rates.
  Result<Round> bursts(const BackEnd& back_end, Receiver& guest,
                       const std::function<Result<std::uint64_t>()>& send) {
    Round round;
    std::vector<double> rates;
    const std::uint64_t end = now_ns() + options_.seconds * 1'000'000'000ull;
    while (now_ns() < end) {
      while (guest.turn() != 0) {
      }
      ::kill(back_end.pid(), SIGSTOP);
      auto sent = send();
      ::kill(back_end.pid(), SIGCONT);
      SLUICE_TRY(sent);
      std::uint64_t received = 0, first = 0, first_count = 0, last = 0, asked = now_ns();
      while (received < *sent && now_ns() - asked < kBurstTimeoutNs) {
        if (const std::uint64_t count = guest.turn(); count != 0) {
          last = now_ns();
          first_count = first == 0 ? count : first_count;
          first = first == 0 ? last : first;
          received += count;
        }
      }
      round.sent += *sent;
      round.received += received;
      if (received == *sent && last > first) {
        rates.push_back(static_cast<double>(received - first_count) * 1e9 /
                        static_cast<double>(last - first));
      }
    }
    if (rates.empty()) {
      return fail("no burst came whole: {} of {} frames", round.received, round.sent);
    }
    std::ranges::nth_element(rates, rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2));
    round.packets_per_second = rates[rates.size() / 2];
    return round;
  }

  const Options& options_;
  Report& report_;
  test::NetNs nic_ns_, wire_ns_;
  test::VethPair pair_;
  std::optional<test::HugePages> huge_;
  Pages pages_ = Pages::kSmall;
  std::uint32_t again_ = 0;  // rounds
};

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  using namespace sluice::bench;
  Options options;
  CLI::App app("Guests: packets per second beside DPDK's net_vhost.");
  app.add_flag("--json", options.json);
  app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 99))->capture_default_str();
  app.add_option("--seconds", options.seconds, "that each round is measured")->capture_default_str();
  app.add_option("--bursts", options.bursts, "of 32 frames that go round in loop and pair")
      ->check(CLI::Range(1, 8))
      ->capture_default_str();
  app.add_option("--idle", options.idle,
                 "of Sluice's worker; testpmd always spins, and only that compares with it")
      ->check(CLI::IsMember({"spin", "adaptive"}))
      ->capture_default_str();
  app.add_option("--only", options.only, "parts by name: loop, pair, nic, loop_64B_packed ...");
  CLI11_PARSE(app, argc, argv);
  if (std::string why = sluice::test::why_no_root_and_xdp() + sluice::test::Testpmd::why_none();
      !why.empty()) {
    std::fprintf(stderr, "guest_bench: %s\n", why.c_str());
    return 2;
  }
  Report report(options.json);
  GuestBench bench(options, report);
  bench.run();
  return report.finish();
}
