// The scenes of the demo, in the order they are played. Each leaves the stage quiet: nobody sends, both apps
// are attached. An error is the world's (a program did not start); a broken promise is in the Promise.
#pragma once

#include <string>

#include "base/result.h"
#include "test/demo/app.h"
#include "test/demo/narrate.h"
#include "test/demo/promise.h"
#include "test/demo/stage.h"

namespace sluice::demo {

struct Apps {
  App owned;   // owns the queue that the full flow arrives on
  App shared;  // gets the thin flow from a queue that it shares
};

inline const std::string kZeroCopy = "ping loses nothing while " + grouped(promised_rate()) +
                                     " packets/s reach a program by zero copy, each exactly once";
inline constexpr const char* kOneCopy =
    "a second program, on a shared queue, gets all of its packets by exactly one copy";
inline constexpr const char* kReadOnly = "a program cannot write a received page by any means";
inline constexpr const char* kAppKilled =
    "kill -9 of a program in full traffic: pages home, the next one attaches, the other loses nothing";
inline constexpr const char* kDaemonKilled =
    "kill -9 of the daemon in full traffic: ping goes on, XDP is gone, programs re-attach to the next daemon";

struct TrafficPromises {
  Promise zero_copy{kZeroCopy}, one_copy{kOneCopy};
};
Result<TrafficPromises> play_traffic(Stage& stage, Apps& apps);
Result<Promise> play_write(Stage& stage, Apps& apps);
Result<Promise> play_app_killed(Stage& stage, Apps& apps);
Result<Promise> play_daemon_killed(Stage& stage, Apps& apps);

}  // namespace sluice::demo
