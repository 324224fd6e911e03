#include "worker/port_meter.h"

namespace sluice {

void PortMeter::suspect(std::uint16_t port, std::uint64_t now) {
  if (port < kMaxPorts) {
    suspects_ += suspect_until_[port] == 0 ? 1 : 0;
    suspect_until_[port] = now + kSuspectNs;
  }
}

void PortMeter::look_closely() {
  looked_ = false;
  if (place_ >= kMaxPorts || suspect_until_[place_] == 0) {
    return;
  }
  if (now_ns() > suspect_until_[place_]) {
    suspect_until_[place_] = 0;
    --suspects_;
    return;
  }
  before_ = ThreadUsage::now();
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
      charged_us_[place_].add((cost_ns - kSlowCallNs) / 1000);
    }
  }
  looked_ = false;
  const std::uint64_t now = now_ns();
  suspect(place_, now);
  suspect(from_, now);
}

}  // namespace sluice
