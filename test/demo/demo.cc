// demo: one NIC that stays Linux's and feeds two programs by Sluice, and what happens when they misbehave or
// die.
//
//   [SLUICE_DEMO_RATE=packets/s] demo [--json]
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "test/demo/child.h"
#include "test/demo/ending.h"
#include "test/demo/narrate.h"
#include "test/demo/scenes.h"

namespace {

using namespace sluice::demo;
using sluice::Result;
using sluice::test::TempFolder;

constexpr int kTimeLimitSeconds = 55;

Result<void> play(Report& report, const std::shared_ptr<TempFolder>& folder) {
  say("Making two network namespaces, the NIC's and the wire's, with a veth pair between them; files are in "
      "{}.",
      folder->path());
  auto stage = Stage::create(folder);
  SLUICE_TRY(stage);
  const Layout& layout = (*stage)->layout();
  say("sluiced serves {} queues of nic0 on CPU {}, where the programs run too; CPU {} makes the packets.",
      layout.queues, layout.receiver_cpu, layout.generator_cpu);
  if (layout.one_cpu()) {
    say("This machine gives us one CPU only: the rate is lower, the first promise cannot hold, and both "
        "flows\n"
        "arrive on the owned queue.");
  }
  auto owned = (*stage)->start_app("owned", 0);
  SLUICE_TRY(owned);
  auto shared = (*stage)->start_app("shared", 0);
  SLUICE_TRY(shared);
  say("Two programs have attached: one owns queue {}, the other shares the rest.", (*stage)->owned_queue());
  Apps apps{std::move(*owned), std::move(*shared)};

  auto traffic = play_traffic(**stage, apps);
  SLUICE_TRY(traffic);
  report.put(0, std::move(traffic->zero_copy));
  report.put(1, std::move(traffic->one_copy));
  auto read_only = play_write(**stage, apps);
  SLUICE_TRY(read_only);
  report.put(2, std::move(*read_only));
  auto app_killed = play_app_killed(**stage, apps);
  SLUICE_TRY(app_killed);
  report.put(3, std::move(*app_killed));
  auto daemon_killed = play_daemon_killed(**stage, apps);
  SLUICE_TRY(daemon_killed);
  report.put(4, std::move(*daemon_killed));

  for (App* app : {&apps.owned, &apps.shared}) {
    if (std::string said = app->stop(); !said.empty()) {
      say("a program said: {}", said);
    }
  }
  const int status = (*stage)->daemon().stop();
  if (const std::string said = (*stage)->daemon().log(); status != 0 || !said.empty()) {
    say("sluiced ended with status {} and said: {}", status, said);
  }
  return {};
}

int run_demo(Output output) {
  if (::geteuid() != 0) {
    std::fprintf(stderr, "demo: needs root, for network namespaces and XDP\n");
    return 1;
  }
  narrate_to(output == Output::kJson ? stderr : stdout);
  Report report(output, {Promise(kZeroCopy), Promise(kOneCopy), Promise(kReadOnly), Promise(kAppKilled),
                         Promise(kDaemonKilled)});
  const auto folder = std::make_shared<TempFolder>("demo");
  Ending ending(*folder, kTimeLimitSeconds, [&] { report.print(); });
  auto played = play(report, folder);
  if (!played) {
    std::fprintf(stderr, "demo: %s\n", played.error().message.c_str());
  }
  return report.print();
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  try {
    if (!arguments.empty() && arguments[0] == "--child") {
      return run_child({arguments.begin() + 1, arguments.end()});
    }
    if (arguments.empty() || (arguments.size() == 1 && arguments[0] == "--json")) {
      return run_demo(arguments.empty() ? Output::kTable : Output::kJson);
    }
    std::fprintf(stderr, "usage: demo [--json]\n");
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "demo: %s\n", error.what());
    return 1;
  }
}
