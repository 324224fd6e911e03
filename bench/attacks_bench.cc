// What an attacker costs others: their delays beside it, and beside a peer that is as busy without harm.
//
// CPU 1 has the worker. CPU 0 has all others: the attacker, the wire, and the victims, which measure with
// real-time priority. Each round plays the harmless one and the attacker one after the other, in turning
// order, each against a daemon of its own; percentiles are over the samples of all rounds. Rounds in which
// the host took a CPU away are done again. How busy each was is said too: operations a second.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <thread>

#include "base/clock.h"
#include "bench/attackers.h"
#include "bench/measure.h"
#include "bench/victims.h"
#include "test/support/daemon.h"
#include "test/support/eventually.h"
#include "test/support/live_frames.h"
#include "test/system/fixture.h"

namespace sluice::bench {
namespace {

constexpr double kGoalMs = 2;           // packets and guests: p99 may be so much longer
constexpr double kControlGoalMs = 100;  // the control socket: p99 at most
constexpr std::uint16_t kVictimUdp = 5000, kAttackerUdp = 5001;
constexpr auto kWarmUp = std::chrono::milliseconds(200);
constexpr int kTries = 4;
constexpr std::array<const char*, 3> kVictims = {"app", "guest", "control"};

struct Options {
  bool json = false;
  int rounds = 5;
  double seconds = 2;
  std::string only;
};

// One of the two, over all rounds.
struct Side {
  std::array<Delays, kVictims.size()> delays;
  double seconds = 0;
  std::uint64_t operations = 0, sessions = 0;
  std::map<std::string, std::uint64_t> counters;  // of the ports it uses, those that are not 0
  void add(const Side& more) {
    for (std::size_t i = 0; i < delays.size(); ++i) {
      delays[i].add(more.delays[i]);
    }
    seconds += more.seconds;
    operations += more.operations;
    sessions += more.sessions;
    for (const auto& [name, value] : more.counters) {
      counters[name] += value;
    }
  }
  double operations_per_second() const { return static_cast<double>(operations) / std::max(seconds, 1e-9); }
};

struct Sides {
  Side harmless, attack;
};

class AttacksBench {
 public:
  explicit AttacksBench(const Options& options)
      : options_(options),
        nic_ns_(test::NetNs::create().value()),
        wire_ns_(test::NetNs::create().value()),
        pair_(test::VethPair::create(nic_ns_, wire_ns_).value()) {}

  // 0: all were measured.
  int run() {
    std::map<std::string, Sides> sides;
    for (int round = 0; round < options_.rounds; ++round) {
      for (const Case& each : cases()) {
        if (options_.only.empty() || options_.only == each.name) {
          play_round(each, round, sides[each.name]);
        }
      }
    }
    for (const Case& each : cases()) {
      if (sides.contains(each.name)) {
        report(each, sides[each.name]);
      }
    }
    return finish();
  }

 private:
  void play_round(const Case& each, int round, Sides& sides) {
    const bool attack_first = round % 2 != 0;
    for (const bool attacks : {attack_first, !attack_first}) {
      try {
        Side played = undisturbed_side(each, attacks);
        (attacks ? sides.attack : sides.harmless).add(played);
      } catch (const std::exception& error) {
        failed_ = true;
        note(fmt::format("{} {}: {}", each.name, attacks ? "attack" : "harmless", error.what()));
      }
    }
  }

  Side undisturbed_side(const Case& each, bool attacks) {
    for (int tries = 1;; ++tries) {
      const std::uint64_t before = stolen_ms();
      Side side = play(each, attacks);
      if (stolen_ms() == before || tries == kTries) {
        disturbed_ += stolen_ms() == before ? 0 : 1;
        return side;
      }
      ++again_;
    }
  }

  std::string config() const {
    const auto guest = [](const char* name, const char* mac) {
      return fmt::format("[port.{0}]\ntype = \"guest\"\nsocket = \"@/{0}.sock\"\nmac = \"{1}\"\n", name, mac);
    };
    return fmt::format("workers = [ {{ cpu = {} }} ]\n", kReceiverCpu) + test::nic_table() +
           test::app_port("victim") + test::udp_rule(kVictimUdp, "victim") +
           guest("victim-vm", "52:54:00:00:00:02") + test::app_port("other") +
           test::udp_rule(kAttackerUdp, "other") + guest("other-vm", test::to_string(kAttackerMac).c_str());
  }

  // Throws when something that must be there is not: first of all the daemon, at the end.
  Side play(const Case& each, bool attacks) {
    test::Daemon daemon(nic_ns_);
    auto started = daemon.start(config());
    test::need(started.has_value(), started ? "" : started.error().message);
    // First of all: this process has one thread now.
    Player player(attacks ? each.play_attack : each.play_harmless,
                  Ground{.guest_socket = daemon.path("other-vm.sock"),
                         .app_socket = daemon.path("other.sock"),
                         .wire_mac = pair_.options().wire_mac});
    auto victims = test::need(Victims::attach(pair_, {.app_socket = daemon.path("victim.sock"),
                                                      .guest_socket = daemon.path("victim-vm.sock"),
                                                      .control = daemon.control(),
                                                      .udp_port = kVictimUdp}));
    auto to_guest = frames(each.frames_to_guest, kAttackerMac);
    auto to_app = frames(each.frames_to_app, pair_.options().nic_mac);
    player.begin();
    test::need(test::eventually([&] { return player.score().operations > 0 || !player.running(); }),
               "it does not begin");
    std::this_thread::sleep_for(kWarmUp);  // lint: allow(sleep) what is measured is time
    victims->start();
    const std::uint64_t operations = player.score().operations, begin = now_ns();
    const std::chrono::duration<double> measured(options_.seconds);
    std::this_thread::sleep_for(measured);  // lint: allow(sleep) what is measured is time
    Side side;
    side.operations = player.score().operations - operations;
    side.sessions = player.score().sessions;
    side.seconds = static_cast<double>(now_ns() - begin) / 1e9;
    victims->stop();
    test::need(player.running(), "it has ended by itself");
    player.stop();
    test::need(daemon.running(), "the daemon is gone: " + daemon.log());
    side.delays = {victims->app, victims->guest, victims->control};
    for (const char* port : {"other", "other-vm"}) {
      const nlohmann::json shown = daemon.port(port);
      for (const auto& [name, value] : shown.at("counters").items()) {
        if (value.is_number_unsigned() && value != 0) {
          side.counters[fmt::format("{}.{}", port, name)] += value.get<std::uint64_t>();
        }
      }
    }
    test::need(daemon.stop() == 0, "the daemon did not end well: " + daemon.log());
    return side;
  }

  // Started, until it goes. None for 0 a second.
  std::unique_ptr<test::LiveFrames> frames(std::uint64_t per_second, const test::Mac& to) {
    if (per_second == 0) {
      return nullptr;
    }
    test::UdpFrame udp = pair_.to_nic();
    udp.destination = to;
    // A rule is stronger than an address: what is for the guest must not match the app's.
    udp.destination_port = to == kAttackerMac ? std::uint16_t{kAttackerUdp + 1} : kAttackerUdp;
    test::LiveFramesOptions options;
    options.frame = test::udp_frame(udp);
    options.packets_per_second = per_second;
    options.cpu = kSenderCpu;
    options.batch = 16;
    auto live = test::need(test::LiveFrames::create(pair_, std::move(options)));
    live->start();
    return live;
  }

  void report(const Case& each, Sides& sides) {
    if (!options_.json) {
      fmt::print("{}\n  harmless {}: {:.0f}/s\n  attack   {}: {:.0f}/s{}\n", each.name, each.harmless,
                 sides.harmless.operations_per_second(), each.attack, sides.attack.operations_per_second(),
                 sides.attack.sessions != 0 ? fmt::format(", ended {} times", sides.attack.sessions) : "");
      fmt::print("  {:<8} {:>31} lost | {:>31} lost | p99 difference\n", "ms",
                 "harmless p50      p99      max", "attack p50      p99      max");
    }
    for (std::size_t i = 0; i < kVictims.size(); ++i) {
      report_victim(each, kVictims[i], sides, sides.harmless.delays[i], sides.attack.delays[i]);
    }
  }

  static nlohmann::json figures(Delays& delays, const Side& side) {
    return {{"p50", delays.ms(0.5)},
            {"p99", delays.ms(0.99)},
            {"max", delays.ms(1)},
            {"lost", delays.lost()},
            {"samples", delays.count()},
            {"operations_per_second", side.operations_per_second()},
            {"sessions_ended", side.sessions},
            {"counters", side.counters}};
  }

  void report_victim(const Case& each, const std::string& victim, const Sides& sides, Delays& harmless,
                     Delays& attack) {
    const double difference = attack.ms(0.99) - harmless.ms(0.99);
    const bool control = victim == "control";
    const bool measured = harmless.count() != 0 && attack.count() != 0;
    const bool met = measured && attack.lost() <= harmless.lost() &&
                     (control ? attack.ms(0.99) <= kControlGoalMs : difference <= kGoalMs);
    results_.push_back({{"name", fmt::format("{}_{}_p99", each.name, victim)},
                        {"unit", "ms"},
                        {"sluice", attack.ms(0.99)},
                        {"peer", harmless.ms(0.99)},
                        {"peer_name", "harmless"},
                        {"difference", measured ? nlohmann::json(difference) : nlohmann::json()},
                        {"goal", control ? kControlGoalMs : kGoalMs},
                        {"goal_is_of", control ? "sluice" : "difference"},
                        {"met", met},
                        {"attack", figures(attack, sides.attack)},
                        {"harmless", figures(harmless, sides.harmless)}});
    if (!options_.json) {
      const auto row = [](Delays& delays) {
        return fmt::format("{:>13.3f} {:>8.3f} {:>8.3f} {:>4}", delays.ms(0.5), delays.ms(0.99), delays.ms(1),
                           delays.lost());
      };
      fmt::print("  {:<8} {:>36} | {:>36} | {:>9}  goal {}: {}\n", victim, row(harmless), row(attack),
                 measured ? fmt::format("{:.3f}", difference) : "none came", control ? "p99 <= 100" : "<= 2",
                 met ? "met" : "MISSED");
      std::fflush(stdout);
    }
  }

  void note(const std::string& text) {
    notes_.push_back(text);
    std::fprintf(stderr, "note: %s\n", text.c_str());
  }

  int finish() {
    if (again_ != 0) {
      note(fmt::format(
          "{} rounds were done again, for the host had taken a CPU away (steal in /proc/stat); {} of those "
          "that count are such",
          again_, disturbed_));
    }
    if (options_.json) {
      fmt::print("{}\n", nlohmann::json{{"results", results_}, {"notes", notes_}}.dump(2));
    }
    return failed_ || results_.empty() ? 1 : 0;
  }

  const Options& options_;
  test::NetNs nic_ns_, wire_ns_;
  test::VethPair pair_;
  nlohmann::json results_ = nlohmann::json::array(), notes_ = nlohmann::json::array();
  std::uint32_t again_ = 0, disturbed_ = 0;  // rounds
  bool failed_ = false;
};

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  using namespace sluice::bench;
  Options options;
  CLI::App app("What an attacker costs others, beside a harmless peer that is as busy.");
  app.add_flag("--json", options.json);
  app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 99))->capture_default_str();
  app.add_option("--seconds", options.seconds, "that are measured per round")
      ->check(CLI::Range(0.1, 600.0))
      ->capture_default_str();
  std::vector<std::string> names;
  for (const Case& each : cases()) {
    names.emplace_back(each.name);
  }
  app.add_option("--case", options.only, "only this one")->check(CLI::IsMember(names));
  CLI11_PARSE(app, argc, argv);
  if (std::string why = sluice::test::why_no_root_and_xdp(); !why.empty()) {
    std::fprintf(stderr, "attacks_bench: %s\n", why.c_str());
    return 2;
  }
  if (std::thread::hardware_concurrency() < 2) {
    std::fprintf(stderr, "attacks_bench: needs two CPUs: one is the worker's\n");
    return 2;
  }
  return AttacksBench(options).run();
}
