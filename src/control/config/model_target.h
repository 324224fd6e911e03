// A ControlTarget without a machine: it is always what it was told to be. For tests.
#pragma once

#include "control/config/control_target.h"
#include "control/config/diff.h"

namespace sluice {

class ModelTarget final : public ControlTarget {
 public:
  explicit ModelTarget(Config config) : current_(std::move(config)) {}

  nlohmann::json show_nics() override { return names(current_.nics); }
  nlohmann::json show_queues() override { return nlohmann::json::array(); }
  nlohmann::json show_ports() override { return names(current_.ports); }
  nlohmann::json show_guests() override {
    nlohmann::json shown = nlohmann::json::array();
    for (const auto& [name, port] : current_.ports) {
      if (port.guest() != nullptr) {
        shown.push_back({{"name", name}, {"state", "waiting"}});
      }
    }
    return shown;
  }
  nlohmann::json show_rules() override {
    nlohmann::json shown = nlohmann::json::array();
    auto add = [&shown](int id, const RuleConfig& rule, const std::string& nic) {
      shown.push_back({{"id", id},
                       {"nic", nic},
                       {"port", rule.port},
                       {"match", rule.match},
                       {"to", rule.to},
                       {"priority", rule.priority},
                       {"shed", rule.shed},
                       {"implicit", false},
                       {"packets", 0},
                       {"bytes", 0}});
    };
    for (const auto& [nic, unused] : current_.nics) {
      int id = 0;
      for (const RuleConfig& rule : rules_of(current_, nic)) {
        add(id++, rule, nic);
      }
    }
    for (const auto& [port, unused] : current_.ports) {
      int id = 0;
      for (const RuleConfig& rule : rules_of_port(current_, port)) {
        add(id++, rule, "");
      }
    }
    return shown;
  }
  nlohmann::json show_pools() override { return nlohmann::json::array(); }
  nlohmann::json show_counters() override { return {{"nic.eth1.rx_packets", 5}}; }

  const Config& current() const override { return current_; }
  Result<void> apply(const Config& fresh) override {
    if (refuses) {
      return fail("the machine says no");
    }
    current_ = after_diff(current_, fresh);
    return {};
  }

  bool refuses = false;

 private:
  template <typename Map>
  static nlohmann::json names(const Map& map) {
    nlohmann::json shown = nlohmann::json::array();
    for (const auto& [name, unused] : map) {
      shown.push_back({{"name", name}});
    }
    return shown;
  }
  Config current_;
};

}  // namespace sluice
