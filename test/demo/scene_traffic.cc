// Full traffic to one app, a thin flow to another, and ping, all at one time.
#include <algorithm>
#include <cstdlib>

#include "test/demo/measure.h"
#include "test/demo/narrate.h"
#include "test/demo/pinger.h"
#include "test/demo/scenes.h"

namespace sluice::demo {

namespace {

constexpr std::chrono::seconds kTraffic{4};

struct Sent {
  std::uint64_t full = 0, thin = 0;
  double seconds = 0;
  Pings pings;
  std::uint64_t per_second() const { return static_cast<std::uint64_t>(static_cast<double>(full) / seconds); }
};

// What else the machine was doing.
double load_average() {
  double minute = 0;
  return ::getloadavg(&minute, 1) == 1 ? minute : 0;
}

Result<Sent> send_and_ping(Stage& stage) {
  Sent sent;
  Stopwatch watch;
  stage.full_flow().start();
  stage.thin_flow().start();
  Pinger pinger(stage.wire_ns(), stage.nic_address(), stage.layout().generator_cpu);
  wait_until(kTraffic, [&] { return !stage.full_flow().running(); });  // ends early by an error only
  sent.pings = pinger.stop();
  auto full = stage.full_flow().stop();
  sent.seconds = watch.seconds();
  auto thin = stage.thin_flow().stop();
  SLUICE_TRY(full);
  SLUICE_TRY(thin);
  sent.full = *full;
  sent.thin = *thin;
  return sent;
}

// Until all is there, or nothing has come for a while.
void let_arrive(const App& app, std::uint64_t sent) {
  std::uint64_t seen = app.received();
  Stopwatch since;
  wait_until(kPatience, [&] {
    if (app.received() != seen) {
      seen = app.received();
      since = Stopwatch();
    }
    return seen == sent || since.seconds() > 0.5;
  });
}

void report_app(Promise& promise, const App& app, std::uint64_t sent) {
  const Tally& tally = app.tally();
  promise.figure("sent", sent);
  promise.figure("received", tally.received.load());
  promise.figure("lost", sent - std::min(sent, tally.received.load()));
  promise.figure("twice_or_out_of_order", tally.not_rising.load());
  promise.require(sent > 0 && tally.received == sent,
                  "not every packet arrived: lost_where says where they were dropped");
  promise.require(tally.not_rising == 0, "a packet came twice or out of order");
}

}  // namespace

Result<TrafficPromises> play_traffic(Stage& stage, Apps& apps) {
  const Layout& layout = stage.layout();
  say("Sending {} packets/s of UDP to the program that owns {}, {} a second to the other, and pinging, {} s "
      "long.",
      grouped(layout.packets_per_second), stage.owned_queue(), grouped(kSharedRate), kTraffic.count());
  auto before = Counts::now(stage);
  SLUICE_TRY(before);
  auto sent = send_and_ping(stage);
  SLUICE_TRY(sent);
  let_arrive(apps.owned, sent->full);
  let_arrive(apps.shared, sent->thin);
  auto after = Counts::now(stage);
  SLUICE_TRY(after);
  auto grown = [&](const char* name) { return after->grown(*before, name); };

  TrafficPromises promises;
  Promise& zero_copy = promises.zero_copy;
  zero_copy.figure("packets_per_second", sent->per_second());
  zero_copy.require(sent->per_second() >= promised_rate(),
                    fmt::format("the generator reached {} packets/s here, not {} (load average {:.1f})",
                                grouped(sent->per_second()), grouped(promised_rate()), load_average()));
  report_app(zero_copy, apps.owned, sent->full);
  zero_copy.figure("zero_copy", grown("port.owned.zero_copy"));
  zero_copy.figure("copied", grown("port.owned.copied"));
  zero_copy.require(grown("port.owned.zero_copy") == apps.owned.received() && grown("port.owned.copied") == 0,
                    "not every packet that arrived came by zero copy");
  sent->pings.report(zero_copy);
  zero_copy.figure("lost_where", after->losses(*before));

  Promise& one_copy = promises.one_copy;
  report_app(one_copy, apps.shared, sent->thin);
  one_copy.figure("copied", grown("port.shared.copied"));
  one_copy.figure("zero_copy", grown("port.shared.zero_copy"));
  one_copy.figure("bytes_received", apps.shared.tally().bytes.load());
  one_copy.figure("bytes_copied", grown("port.shared.copied_bytes"));
  one_copy.require(
      grown("port.shared.copied") == apps.shared.received() && grown("port.shared.zero_copy") == 0,
      "packets and copies are not as many");
  one_copy.require(grown("port.shared.copied_bytes") == apps.shared.tally().bytes,
                   "bytes received and bytes copied are not as many");
  return promises;
}

}  // namespace sluice::demo
