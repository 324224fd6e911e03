// kill -9 of the app that gets the full flow.
#include "test/demo/measure.h"
#include "test/demo/narrate.h"
#include "test/demo/scenes.h"

namespace sluice::demo {

namespace {
constexpr std::uint64_t kInFullSwing = 100'000;  // packets received
}

Result<Promise> play_app_killed(Stage& stage, Apps& apps) {
  say("Full traffic again; kill -9 of the program that receives it.");
  Promise promise(kAppKilled);
  auto before = Counts::now(stage);
  SLUICE_TRY(before);
  const std::uint64_t shared_before = apps.shared.received(), shared_missing = apps.shared.tally().missing;
  stage.full_flow().start();
  stage.thin_flow().start();
  const std::uint64_t owned_before = apps.owned.received();
  promise.require(wait_until(kPatience, [&] { return apps.owned.received() > owned_before + kInFullSwing; }),
                  "the app received nothing before it was killed");
  std::uint64_t lent = 0;
  promise.require(wait_until(kPatience,
                             [&] {
                               lent = stage.daemon().port("owned")["pages_held"].get<std::uint64_t>();
                               return lent > 0;
                             }),
                  "the app never held a page");

  Stopwatch since_kill;
  apps.owned.kill();
  nlohmann::json port;
  const bool home = wait_until(kPatience, [&] {
    port = stage.daemon().port("owned");
    return port.value("state", "") == "detached" && port.value("pages_held", 1) == 0;
  });
  promise.figure("pages_held_before", lent);
  promise.figure("pages_held_after", port["pages_held"]);
  promise.figure("port_after", port["state"]);
  promise.figure("home_after_ms", since_kill.ms());
  promise.require(home, "show ports does not say detached, with no page held");

  Stopwatch since_restart;
  auto next = stage.start_app("owned");
  SLUICE_TRY(next);
  apps.owned = std::move(*next);
  promise.require(wait_until(kPatience, [&] { return apps.owned.received() > kInFullSwing; }),
                  "the next app attached and received nothing");
  promise.figure("next_app_received", apps.owned.received());
  promise.figure("next_app_received_after_ms", since_restart.ms());

  auto thin = stage.thin_flow().stop();
  SLUICE_TRY(thin);
  SLUICE_TRY(stage.full_flow().stop());
  wait_until(kPatience, [&] { return apps.shared.received() >= shared_before + *thin; });
  const std::uint64_t received = apps.shared.received() - shared_before;
  promise.figure("other_app_sent", *thin);
  promise.figure("other_app_received", received);
  promise.require(received == *thin && apps.shared.tally().missing == shared_missing,
                  "the other app lost packets");

  auto after = Counts::now(stage);
  SLUICE_TRY(after);
  // What came for the dead app is dropped by name, and that is right; the other app's losses are the fault.
  promise.figure("dropped_where", after->losses(*before));
  nlohmann::json pages = nlohmann::json::object();
  for (const nlohmann::json& pool : stage.daemon().show("pools")) {
    pages[pool["name"].get<std::string>()] = pool["counters"]["inflight"];
  }
  promise.detail("pages_in_flight_by_pool", pages);  // those in a NIC's rings, and those that were lent
  return promise;
}

}  // namespace sluice::demo
