// A program turns on the packets it is lent, in the pages that the NIC's own queue gave it.
#include <signal.h>

#include <sstream>

#include "test/demo/child.h"
#include "test/demo/measure.h"
#include "test/demo/narrate.h"
#include "test/demo/scenes.h"
#include "test/support/process.h"

namespace sluice::demo {

Result<Promise> play_write(Stage& stage, Apps& apps) {
  say("A program, as root, attaches to the owned queue and tries to write what it received.");
  const std::string said = apps.owned.stop();
  if (!said.empty()) {
    return fail("the app on port owned ended with: {}", said);
  }
  auto writer = test::Process::start(leashed(child_command("write", {stage.socket_of("owned")})));
  SLUICE_TRY(writer);
  const bool attached =
      wait_until(kPatience, [&] { return stage.daemon().port("owned")["pid"] == writer->pid(); });
  if (!attached) {
    writer->signal(SIGKILL);
    return fail("the writing program could not attach: {}", writer->wait().output);
  }
  stage.full_flow().start();
  const test::Finished finished = writer->wait();
  SLUICE_TRY(stage.full_flow().stop());

  Promise promise(kReadOnly);
  nlohmann::json refused = nlohmann::json::array();
  bool unchanged = false;
  std::istringstream lines(finished.output);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("refused ")) {
      refused.push_back(line.substr(8));
      say("    refused: {}", line.substr(8));
    } else if (line.starts_with("DONE ")) {
      promise.require(false, line.substr(5) + " was not refused");
    } else if (line == "the packet is as it came") {
      unchanged = true;
    }
  }
  const bool segv = finished.status == 128 + SIGSEGV;
  say("    a plain store: {}", segv ? "SIGSEGV" : fmt::format("exit status {}", finished.status));
  promise.figure("ways_refused", refused.size());
  promise.figure("plain_store", segv ? "SIGSEGV" : "no SIGSEGV");
  promise.figure("packet_unchanged", unchanged);
  promise.detail("refused", refused);
  promise.require(refused.size() >= 5 && unchanged && segv, "the program said: " + finished.output);

  auto next = stage.start_app("owned");
  SLUICE_TRY(next);
  apps.owned = std::move(*next);
  return promise;
}

}  // namespace sluice::demo
