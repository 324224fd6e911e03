// How many pauses of workers one peer may cause: a token bucket. No clock inside: time is passed in.
#pragma once

#include <algorithm>
#include <cstdint>

namespace sluice {

// A front-end sets up a device of 64 queue pairs with fewer messages than the burst; a guest that reboots all
// the time needs a few pauses a second.
inline constexpr std::uint64_t kPausesPerSecond = 200;
inline constexpr std::uint64_t kPauseBurst = 512;

class PauseBudget {
 public:
  bool ready(std::uint64_t now_ns) {
    refill(now_ns);
    return tokens_ns_ >= kTokenNs;
  }
  // May go into debt by what one message costs: ready() is asked before, not between.
  void take(std::uint64_t now_ns) {
    refill(now_ns);
    tokens_ns_ -= kTokenNs;
  }
  // 0: it is ready.
  std::uint64_t ns_until_ready(std::uint64_t now_ns) {
    refill(now_ns);
    return tokens_ns_ >= kTokenNs ? 0 : static_cast<std::uint64_t>(kTokenNs - tokens_ns_);
  }

 private:
  static constexpr std::int64_t kTokenNs = 1'000'000'000 / static_cast<std::int64_t>(kPausesPerSecond);
  static constexpr std::int64_t kFullNs = kTokenNs * static_cast<std::int64_t>(kPauseBurst);

  void refill(std::uint64_t now_ns) {
    const std::uint64_t passed = std::min(now_ns - last_ns_, static_cast<std::uint64_t>(2 * kFullNs));
    tokens_ns_ = std::min(kFullNs, tokens_ns_ + static_cast<std::int64_t>(passed));
    last_ns_ = now_ns;
  }

  std::int64_t tokens_ns_ = kFullNs;  // in the time that they take to come
  std::uint64_t last_ns_ = 0;
};

}  // namespace sluice
