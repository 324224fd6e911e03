// Ending: whatever way the demo ends, by a signal or because something hangs, nothing stays behind.
// Namespaces have no names and go with the last process inside.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "base/result.h"
#include "test/support/temp_folder.h"

namespace sluice::demo {

class Ending {
 public:
  // From now on SIGINT, SIGTERM and SIGHUP end the demo's processes, remove `dir` and exit; so does the end
  // of `seconds`, after calling `time_is_over`. Once per process.
  Ending(const test::TempFolder& dir, int seconds, std::function<void()> time_is_over);
  ~Ending();  // the usual way: whoever owns something cleans it up
  Ending(const Ending&) = delete;

 private:
  void watch();

  const test::TempFolder& dir_;
  int seconds_;
  std::function<void()> time_is_over_;
  std::thread thread_;
};

}  // namespace sluice::demo
