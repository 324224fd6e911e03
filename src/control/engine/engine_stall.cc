// The engine's account of what ports cost the workers: who has used up a window's budget, and who is cut off.
#include <algorithm>

#include "base/clock.h"
#include "base/log.h"
#include "control/engine/engine.h"
#include "worker/port_meter.h"

namespace sluice {

namespace {

constexpr std::uint64_t kLongestBetweenLooksNs = 1'000'000'000;

const char* state_text(StallPolicy::State state) {
  return state == StallPolicy::State::kThrottled ? "throttled" : "served";
}

}  // namespace

// Looks again when the shortest window ends.
void Engine::watch_stalls() {
  waker_->reap();
  const std::uint64_t now = now_ns();
  std::uint64_t next = now + kLongestBetweenLooksNs;
  for (const auto& [name, config] : current_.ports) {
    const auto id = names_.all().find(name);
    const auto* limits = config.by_socket();
    if (limits == nullptr || limits->stall_budget_us == 0 || id == names_.all().end()) {
      continue;
    }
    Stall& stall = stalls_[name];
    if (now >= stall.window_end_ns) {
      end_window(name, *limits, stall, id->second);
      stall.window_end_ns = now + std::uint64_t{limits->stall_window_ms} * 1'000'000;
    }
    next = std::min(next, stall.window_end_ns);
  }
  watch_stalls_in(std::max(next - now, std::uint64_t{1'000'000}));
}

void Engine::watch_stalls_in(std::uint64_t delay_ns) {
  stall_timer_ =
      loop_.once(delay_ns, [this] { watch_stalls(); }, [this] { watch_stalls_in(kLongestBetweenLooksNs); });
}

void Engine::end_window(const std::string& name, const SocketConfig& limits, Stall& stall, PortId port) {
  std::uint64_t charged_us = 0;
  for (const auto& worker : workers_) {
    charged_us += worker->meter().charged_us(port);
  }
  const std::uint64_t cost_us = charged_us - stall.charged_us;
  stall.charged_us = charged_us;
  begin_window(port, limits.stall_budget_us);
  if (stall.window_end_ns == 0) {
    return;  // the first look: the counters are of an earlier port
  }
  const StallPolicy::State before = stall.policy.state();
  const StallPolicy::State after = stall.policy.end_window(cost_us, limits.stall_budget_us);
  if (after == before) {
    return;
  }
  if (after == StallPolicy::State::kThrottled) {
    log::warn("port {}: held workers up for {} us, {} are allowed in {} ms; not served for the rest of them",
              name, cost_us, limits.stall_budget_us, limits.stall_window_ms);
  } else if (after == StallPolicy::State::kServed) {
    if (before == StallPolicy::State::kCutOff) {
      return;  // who is there now has done nothing yet
    }
    log::info("port {}: holds workers up no more", name);
  } else {
    const std::uint64_t shut_ns = stall.policy.shut_ns();
    log::warn(
        "port {}: held workers up for {} us, which is too much or too often; cut off, and nobody is let in "
        "for {} s",
        name, cost_us, shut_ns / 1'000'000'000);
    if (auto guest = guests_.find(name); guest != guests_.end()) {
      guest->second->cut_off_stalled(shut_ns);
    } else if (auto app = apps_.find(name); app != apps_.end()) {
      app->second->cut_off_stalled(shut_ns);
    }
  }
}

void Engine::begin_window(PortId port, std::uint64_t budget_us) {
  for (const auto& worker : workers_) {
    worker->begin_window(port, budget_us);
  }
}

void Engine::forget_stall(const std::string& name, PortId port) {
  stalls_.erase(name);
  begin_window(port, 0);
}

void Engine::show_costs(nlohmann::json& port, const std::string& name, PortId id) const {
  nlohmann::json by_worker = nlohmann::json::array();
  std::uint64_t sum = 0;
  for (const auto& worker : workers_) {
    by_worker.push_back(worker->meter().busy_us(id));
    sum += worker->meter().busy_us(id);
  }
  port["busy_us"] = sum;
  port["busy_us_by_worker"] = std::move(by_worker);
  const auto found = stalls_.find(name);
  port["service"] =
      state_text(found == stalls_.end() ? StallPolicy::State::kServed : found->second.policy.state());
}

}  // namespace sluice
