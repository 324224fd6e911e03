// App: a program of its own process that receives on a port by libsluice and checks every sequence number.
#pragma once

#include <string>

#include "base/result.h"
#include "test/demo/tally.h"
#include "test/support/process.h"

namespace sluice::demo {

class App {
 public:
  // Attaches to `socket` and runs on `cpu`. The first packet must carry `first_sequence`, or any with
  // Tally::kAny.
  static Result<App> start(const std::string& socket, unsigned cpu,
                           std::uint64_t first_sequence = Tally::kAny);

  const Tally& tally() const { return *tally_; }
  pid_t pid() const { return process_.pid(); }
  std::uint64_t received() const { return tally_->received; }
  bool attached() const { return tally_->attached; }

  // kill -9, and waits until it is gone.
  void kill();
  // Asks it to end; what it said, "" when all was well.
  std::string stop();

 private:
  App(SharedTally tally, test::Process process) : tally_(std::move(tally)), process_(std::move(process)) {}
  SharedTally tally_;
  test::Process process_;
};

// What the process does.
int receive_packets(const std::string& socket, const std::string& tally_path, unsigned cpu);

}  // namespace sluice::demo
