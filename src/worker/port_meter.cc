#include "worker/port_meter.h"

#include <algorithm>

namespace sluice {

void PortMeter::suspect(std::uint16_t port, std::uint64_t until) {
  if (port < kMaxPorts) {
    suspects_ += suspect_until_[port] == 0 ? 1 : 0;
    suspect_until_[port] = std::max(suspect_until_[port], until);
  }
}

void PortMeter::look_closely(std::uint64_t now, std::uint64_t passed) {
  const auto ticks = [](std::uint64_t ns) {
    return static_cast<std::uint64_t>(static_cast<double>(ns) * ticks_per_ns());
  };
  fresh_ = fresh_ && passed <= ticks(kShortCallNs) && now - before_ticks_ <= ticks(kUsageFreshNs);
  looked_ = false;
  if (place_ >= kMaxPorts || suspect_until_[place_] == 0) {
    return;
  }
  if (now_ns() > suspect_until_[place_]) {
    suspect_until_[place_] = 0;
    --suspects_;
    return;
  }
  if (!fresh_) {
    before_ = ThreadUsage::now();
    ++looks_;
    before_ticks_ = now;
    fresh_ = true;
  }
  looked_ = true;
}

// Who reads another peer's memory while it fills its own cannot be told from that peer by a page fault that
// waits. Then both are looked at, and each is charged where it touches its own memory alone.
void PortMeter::end_slow_call(std::uint64_t ticks) {
  if (place_ >= kMaxPorts) {
    looked_ = false;
    return;
  }
  slow_calls_[place_].add(1);
  if (looked_ && from_ >= kMaxPorts) {
    const auto wall_ns = static_cast<std::uint64_t>(static_cast<double>(ticks) / ticks_per_ns());
    const std::uint64_t cost_ns = ThreadUsage::now().cost_since(before_, wall_ns);
    if (cost_ns > kSlowCallNs) {
      charge(place_, (cost_ns - kSlowCallNs) / 1000);
    }
  }
  looked_ = false;
  const auto took_ns = static_cast<std::uint64_t>(static_cast<double>(ticks) / ticks_per_ns());
  const std::uint64_t until = now_ns() + std::max(kSuspectNs, kSuspectTimes * took_ns);
  suspect(place_, until);
  suspect(from_, until);
}

void PortMeter::charge(std::uint16_t port, std::uint64_t us) {
  charged_us_[port].add(us);
  const std::uint64_t used = used_us_[port].fetch_add(us, std::memory_order_relaxed) + us;
  const std::uint64_t budget = budget_us_[port].load(std::memory_order_relaxed);
  if (budget != 0 && used > budget && !over_[port].exchange(true, std::memory_order_relaxed)) {
    serial_.fetch_add(1, std::memory_order_release);
  }
}

void PortMeter::look_who_is_closed() {
  any_closed_ = false;
  for (std::size_t port = 0; port < kMaxPorts; ++port) {
    closed_[port] = over_[port].load(std::memory_order_relaxed);
    any_closed_ = any_closed_ || closed_[port];
  }
}

}  // namespace sluice
