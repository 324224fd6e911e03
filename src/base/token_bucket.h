// TokenBucket: how often something may be done: a burst at once, then one per interval. No clock inside: time
// is passed in, in ns, and never goes back.
#pragma once

#include <algorithm>
#include <cstdint>

namespace sluice {

class TokenBucket {
 public:
  // `burst`: at least 1. An interval of 0: no limit.
  TokenBucket(std::uint64_t interval_ns, std::uint32_t burst)
      : interval_ns_(interval_ns), slack_ns_(interval_ns * (burst - 1)) {}

  // 0: it is ready.
  std::uint64_t ns_until_ready(std::uint64_t now_ns) const {
    const std::uint64_t ahead_ns = std::max(paid_until_ns_, now_ns) - now_ns;
    return ahead_ns > slack_ns_ ? ahead_ns - slack_ns_ : 0;
  }
  bool ready(std::uint64_t now_ns) const { return ns_until_ready(now_ns) == 0; }
  // Also when it is not ready: a caller that asks once and takes several times goes into debt.
  void take(std::uint64_t now_ns) { paid_until_ns_ = std::max(paid_until_ns_, now_ns) + interval_ns_; }

 private:
  const std::uint64_t interval_ns_, slack_ns_;
  std::uint64_t paid_until_ns_ = 0;
};

}  // namespace sluice
