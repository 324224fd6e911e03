// kill -9 of the daemon in full traffic, some time without it, and a new one.
#include "test/demo/measure.h"
#include "test/demo/narrate.h"
#include "test/demo/pinger.h"
#include "test/demo/scenes.h"

namespace sluice::demo {

namespace {
constexpr std::uint64_t kInFullSwing = 100'000, kThinSwing = 1'000;  // packets received
constexpr double kWithoutDaemonSeconds = 1.0;
}  // namespace

Result<Promise> play_daemon_killed(Stage& stage, Apps& apps) {
  say("Full traffic and ping; kill -9 of the daemon, {} s without one, then a new one.",
      kWithoutDaemonSeconds);
  Promise promise(kDaemonKilled);
  stage.full_flow().start();
  stage.thin_flow().start();
  Pinger pinger(stage.wire_ns(), stage.nic_address(), stage.layout().generator_cpu);
  const std::uint64_t owned_before = apps.owned.received();
  promise.require(wait_until(kPatience, [&] { return apps.owned.received() > owned_before + kInFullSwing; }),
                  "the app received nothing before the daemon was killed");
  promise.require(stage.has_xdp_program(), "there was no XDP program on the NIC before");

  Stopwatch since_kill;
  stage.daemon().kill();
  promise.require(wait_until(kPatience, [&] { return !stage.has_xdp_program(); }),
                  "the XDP program is still on the NIC");
  promise.figure("xdp_gone_after_ms", since_kill.ms());
  promise.require(wait_until(kPatience, [&] { return !apps.owned.attached() && !apps.shared.attached(); }),
                  "the apps did not notice that the daemon is gone");
  wait_until(kPatience, [&] { return since_kill.seconds() > kWithoutDaemonSeconds; });

  Stopwatch since_restart;
  const std::uint64_t owned_away = apps.owned.received(), shared_away = apps.shared.received();
  SLUICE_TRY(stage.start_daemon());
  promise.figure("new_daemon_ready_after_ms", since_restart.ms());
  const bool both_receive = wait_until(kPatience, [&] {
    return apps.owned.received() > owned_away + kInFullSwing &&
           apps.shared.received() > shared_away + kThinSwing;
  });
  promise.figure("both_apps_receive_after_ms", since_restart.ms());
  const Pings pings = pinger.stop();
  SLUICE_TRY(stage.full_flow().stop());
  SLUICE_TRY(stage.thin_flow().stop());
  promise.figure("sessions_of_owned_app", apps.owned.tally().attaches.load());
  promise.figure("sessions_of_shared_app", apps.shared.tally().attaches.load());
  promise.figure("owned_app_received_since", apps.owned.received() - owned_away);
  promise.figure("shared_app_received_since", apps.shared.received() - shared_away);
  promise.require(both_receive && apps.owned.tally().attaches == 2 && apps.shared.tally().attaches == 2,
                  "not both apps attached again by themselves and received");
  pings.report(promise);
  return promise;
}

}  // namespace sluice::demo
