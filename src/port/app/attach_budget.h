// AttachBudget: how often a port begins a session. A session costs an arena, so whoever attaches and goes
// again, as fast as it can, would make the machine allocate and free without end (D6). Who comes too early
// waits; nobody is refused for it.
#pragma once

#include <algorithm>
#include <cstdint>

namespace sluice {

// Sessions that may begin at once: a program that is killed and started again a few times does not wait.
inline constexpr std::uint32_t kAttachBurst = 5;
// After that, one in so long.
inline constexpr std::uint64_t kAttachIntervalNs = 1'000'000'000;

class AttachBudget {
 public:
  // An interval of 0: no limit.
  explicit AttachBudget(std::uint64_t interval_ns) : interval_ns_(interval_ns) {}

  // 0: a session may begin, and is paid for. Otherwise: ask again after so many ns.
  std::uint64_t take(std::uint64_t now_ns) {
    const std::uint64_t burst_ns = interval_ns_ * (kAttachBurst - 1);
    const std::uint64_t paid_until_ns = std::max(paid_until_ns_, now_ns);
    if (paid_until_ns - now_ns > burst_ns) {
      return paid_until_ns - now_ns - burst_ns;
    }
    paid_until_ns_ = paid_until_ns + interval_ns_;
    return 0;
  }

 private:
  const std::uint64_t interval_ns_;
  std::uint64_t paid_until_ns_ = 0;
};

}  // namespace sluice
