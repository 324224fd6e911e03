// BoundedWrite: write(2) to an eventfd whose other end a hostile process holds, for no longer than two
// milliseconds. Where CallSender (call_sender.h) finds no AIO, guests are called by this.
//
// The peer can clear its O_NONBLOCK and fill its counter, and the write then waits. A timer of this thread's
// own interrupts it, again and again until it is disarmed: a tick that comes before the write began is not
// the last one. Four system calls per write, so it is for threads that wake others, and not for workers.
#pragma once

#include <time.h>

#include <cstdint>

#include "base/result.h"

namespace sluice {

class BoundedWrite {
 public:
  static constexpr std::uint64_t kTickNs = 1'000'000;

  // The present thread's, made when it is first asked for; null: no timer is to be had, tried again next
  // time.
  static BoundedWrite* of_this_thread();
  ~BoundedWrite();
  BoundedWrite(const BoundedWrite&) = delete;
  BoundedWrite& operator=(const BoundedWrite&) = delete;

  enum class Done : std::uint8_t {
    kSignalled,
    kFull,     // it was readable already
    kWaited,   // likewise, and it would have waited for its reader: no driver's does
    kRefused,  // it is no eventfd
  };
  Done signal(int eventfd);

 private:
  explicit BoundedWrite(timer_t timer) : timer_(timer) {}
  void tick(std::uint64_t every_ns);

  timer_t timer_;
};

}  // namespace sluice
