#include "control/engine/stalls.h"

#include <algorithm>

#include "base/clock.h"
#include "base/log.h"

namespace sluice {

namespace {
constexpr std::uint64_t kLongestBetweenLooksNs = 1'000'000'000;
constexpr std::uint64_t kShortestBetweenLooksNs = 1'000'000;
}  // namespace

Stalls::~Stalls() {
  if (timer_ != 0) {
    loop_->cancel(timer_);
  }
}

void Stalls::watch(const std::string& name, PortId port, const Limits& limits,
                   std::function<void(std::uint64_t)> cut_off) {
  if (limits.budget_us != 0) {
    ports_.insert_or_assign(name, Watched{.port = port, .limits = limits, .cut_off = std::move(cut_off)});
  }
}

void Stalls::forget(const std::string& name) {
  if (auto found = ports_.find(name); found != ports_.end()) {
    const PortId port = found->second.port;
    ports_.erase(found);
    costs_.begin_window(port, 0);
  }
}

StallPolicy::State Stalls::state(const std::string& name) const {
  auto found = ports_.find(name);
  return found == ports_.end() ? StallPolicy::State::kServed : found->second.policy.state();
}

void Stalls::begin(EventLoop& loop, std::function<void()> each_time) {
  loop_ = &loop;
  each_time_ = std::move(each_time);
  look_in(kShortestBetweenLooksNs);
}

void Stalls::look_in(std::uint64_t delay_ns) {
  timer_ = loop_->once(
      delay_ns,
      [this] {
        each_time_();
        const std::uint64_t now = now_ns();
        look_in(std::max(look(now) - now, kShortestBetweenLooksNs));
      },
      [this] { look_in(kLongestBetweenLooksNs); });
}

std::uint64_t Stalls::look(std::uint64_t now_ns) {
  std::uint64_t next = now_ns + kLongestBetweenLooksNs;
  for (auto& [name, port] : ports_) {
    if (now_ns >= port.window_end_ns) {
      end_window(name, port);
      port.window_end_ns = now_ns + std::uint64_t{port.limits.window_ms} * 1'000'000;
    }
    next = std::min(next, port.window_end_ns);
  }
  return next;
}

void Stalls::end_window(const std::string& name, Watched& port) {
  const std::uint64_t charged_us = costs_.charged_us(port.port);
  const std::uint64_t cost_us = charged_us - port.charged_us;
  port.charged_us = charged_us;
  costs_.begin_window(port.port, port.limits.budget_us);
  if (port.window_end_ns == 0) {
    return;  // the first look: the counters are of an earlier port
  }
  const StallPolicy::State before = port.policy.state();
  const StallPolicy::State after = port.policy.end_window(cost_us, port.limits.budget_us);
  if (after == before) {
    return;
  }
  if (after == StallPolicy::State::kThrottled) {
    log::warn("port {}: held workers up for {} us, {} are allowed in {} ms; not served for the rest of them",
              name, cost_us, port.limits.budget_us, port.limits.window_ms);
  } else if (after == StallPolicy::State::kCutOff) {
    const std::uint64_t shut_ns = port.policy.shut_ns();
    log::warn(
        "port {}: held workers up for {} us, which is too much or too often; cut off, and nobody is let in "
        "for {} s",
        name, cost_us, shut_ns / 1'000'000'000);
    port.cut_off(shut_ns);
  } else if (before == StallPolicy::State::kThrottled) {  // after a cut the next one has done nothing yet
    log::info("port {}: holds workers up no more", name);
  }
}

}  // namespace sluice
