// What a step of the engine could not do, or a NIC that went took along, is tried again. What is wrong is said
// once.
#include "base/clock.h"
#include "base/log.h"
#include "control/engine/engine.h"
#include "control/engine/lost_ways.h"

namespace sluice {

void Engine::log_once(const std::string& what, const Error& error) {
  std::string& said = said_[what];
  if (said != error.message) {
    log::error("{}: {}; trying again", what, error.message);
    said = error.message;
  }
}

// `from`: the NIC that they stand on; null: a port, which any worker serves, or one that is away.
void Engine::warn_of_lost(const std::string& place, const std::vector<RuleConfig>& rules, const Nic* from) {
  std::set<WorkerId> takers;
  for (const auto& worker : workers_->all()) {
    if (from == nullptr || from->worker_sends(worker->id())) {
      takers.insert(worker->id());
    }
  }
  std::vector<std::string> lost =
      lost_ways(rules, takers, [this](const std::string& netdev, WorkerId worker) {
        const Nic* const nic = nics_->find(netdev);
        return nic == nullptr || nic->worker_sends(worker);
      });
  if (std::vector<std::string>& said = lost_[place]; said != lost) {
    for (const std::string& sentence : lost) {
      log::warn("{}: {}", place, sentence);
    }
    said = std::move(lost);
  }
}

bool Engine::any_left_over() const {
  return switch_changed_ || nics_->any_left() || !unsettled_.empty() || !unruled_.empty() ||
         !unruled_ports_.empty() || !table_->settled();
}

void Engine::retry_later() {
  if (retry_timer_ == 0 && any_left_over()) {
    retry_timer_ = parts_.loop->once(
        parts_.retry_ns,
        [this] {
          retry_timer_ = 0;
          nics_->retry(now_ns());
          retry();
        },
        [this] { retry_later(); });
  }
}

void Engine::retry() {
  const Report say = [this](const std::string& what, const Error& error) { log_once(what, error); };
  const bool said_before = !said_.empty();
  for (const std::string& netdev : std::set<std::string>(unruled_)) {
    unsettled_.insert(netdev);
    if (auto set = rules_->set(netdev, rules_of(current_, netdev)); !set) {
      say("rules of nic " + netdev, set.error());
    } else {
      unruled_.erase(netdev);
    }
  }
  for (const std::string& port : std::set<std::string>(unruled_ports_)) {
    if (auto set = rules_->set_ingress(port, rules_of_port(current_, port)); !set) {
      say("rules of port " + port, set.error());
    } else {
      unruled_ports_.erase(port);
    }
  }
  settle(say);
  rules_->forget_unused_netdevs();
  table_->retry(say);
  if (said_before && !any_left_over()) {
    said_.clear();  // a new trouble is said anew
  }
  retry_later();
  id_rest_->begin();
}

// With its queues that are nobody's, and without rules.
void Engine::nic_came_back(Nic& nic) {
  owned_->nic_is_back(nic);
  rules_->nic_is_new(nic.config().netdev);
  unruled_.insert(nic.config().netdev);
  retry();
}

void Engine::on_nic_event(const NicEvent& event) {
  nics_->on_event(event);
  using What = NicEvent::What;
  if (event.what == What::kAppeared || event.what == What::kRemoved || event.what == What::kRenamed) {
    rules_->refresh_netdevs([](const std::string& name, const Error& error) {
      log::warn("{}: {}; trying again", name, error.message);
    });
    retry_later();
  }
}

}  // namespace sluice
