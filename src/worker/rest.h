// What a worker with nothing left to do does next: nap, or sleep. Pure: no clock, no system call.
//
//   nap    a fixed short time, woken by nobody. The packets of that time wait in the rings and are taken in
//   one go: the
//          sender's core pays for no wake-up, a program on the worker's core gets the CPU, and the system
//          calls per packet fall as the rate grows. Costs up to nap_us of delay, so it is right only while
//          packets come so fast that a nap gathers several.
//   sleep  on the descriptors, until one of them has work. Costs a wake-up, and answers within microseconds.
#pragma once

#include <cstdint>

namespace sluice {

class RestPolicy {
 public:
  enum class Rest : std::uint8_t { kNap, kSleep };

  // Packets per nap from which napping beats waking: at 50 us, 80,000 packets a second.
  static constexpr std::uint64_t kBusyPackets = 4;
  // After a busy time, so many naps in a row may gather less than that before the worker sleeps.
  static constexpr std::uint32_t kQuietNaps = 4;

  explicit RestPolicy(std::uint64_t nap_ns) : nap_ns_(nap_ns) {}

  // Everything is done for now. `packets` came in the `elapsed_ns` since the last call.
  Rest next(std::uint64_t packets, std::uint64_t elapsed_ns) {
    // At least kBusyPackets per nap_ns_. A worker that was away for seconds has no busy time behind it.
    if (packets >= kBusyPackets && packets * nap_ns_ >= kBusyPackets * elapsed_ns) {
      naps_left_ = kQuietNaps;
      return Rest::kNap;
    }
    if (naps_left_ == 0) {
      return Rest::kSleep;
    }
    --naps_left_;
    return Rest::kNap;
  }

  // The sleep was refused or ended, and brought no packet: nap once before the next one. A peer that cries
  // wolf (D6) costs one empty turn per nap and no more.
  void sleep_brought_nothing() {
    if (naps_left_ == 0) {
      naps_left_ = 1;
    }
  }

 private:
  std::uint64_t nap_ns_;
  std::uint32_t naps_left_ = 0;
};

}  // namespace sluice
