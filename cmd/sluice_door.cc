// sluice-door: the process that makes doors, and what each kind of door does (src/door/doors.h). Started by
// sluiced, which is at the other end of its descriptor 3.
#include <cstdio>

#include "base/closer.h"
#include "base/fd.h"
#include "door/checker.h"
#include "door/one_message.h"
#include "door/undertaker.h"
#include "door/zygote.h"
#include "port/guest/vhost_user/guest_door.h"

namespace {

using namespace sluice;

void run_door(DoorKind kind, int channel, int peer) {
  switch (kind) {
    case DoorKind::kGuest:
      return run_guest_door(channel, peer);
    case DoorKind::kOneMessage:
      return run_message_door(channel, peer);
    case DoorKind::kUndertaker:
      return run_undertaker(channel);
    case DoorKind::kChecker:
      return run_checker(channel);
  }
}

}  // namespace

int main() {
  Closer::of_process().work_without_thread();  // a door may wait, and is allowed no threads
  if (auto ended = run_zygote(run_door); !ended) {
    std::fprintf(stderr, "sluice-door: %s\n", ended.error().message.c_str());
    return 1;
  }
  return 0;
}
