#include "control/engine/undo.h"

#include <algorithm>

namespace sluice {

namespace {

constexpr std::string_view kNicPrefix = "nic:";

// A rule of `target` may lead there.
bool leads_somewhere(const Config& target, const RuleConfig& rule) {
  if (rule.to.starts_with(kNicPrefix)) {
    return target.nics.contains(rule.to.substr(kNicPrefix.size()));
  }
  return rule.to == "kernel" || rule.to == "drop" || rule.to.find(':') != std::string::npos ||
         target.ports.contains(rule.to);
}

struct Undo {
  Undone& undone;
  const Config& before;
  const StillThere& still_there;

  void operator()(const RestartNeeded&) const {}
  void operator()(const SetLogLevel&) const { undone.target.daemon.log = before.daemon.log; }

  void operator()(const AddNic& step) const {
    undone.target.nics.erase(step.nic.netdev);
    const std::string to = std::string(kNicPrefix) + step.nic.netdev;
    std::erase_if(undone.target.rules,
                  [&](const RuleConfig& rule) { return rule.nic == step.nic.netdev || rule.to == to; });
  }
  void operator()(const AddPort& step) const {
    undone.target.ports.erase(step.port.name);
    std::erase_if(undone.target.rules, [&](const RuleConfig& rule) {
      return rule.to == step.port.name || rule.port == step.port.name;
    });
  }
  // They cannot fail half way. Where they were not reached, what they were to remove runs on.
  void operator()(const RemovePort& step) const {
    if (still_there.port(step.name)) {
      undone.target.ports[step.name] = before.ports.at(step.name);
    }
  }
  void operator()(const RemoveNic& step) const {
    if (still_there.nic(step.netdev)) {
      undone.target.nics[step.netdev] = before.nics.at(step.netdev);
    }
  }

  // A NIC keeps the rules that stand: rules for every NIC are written out per NIC, to be able to say so.
  void operator()(const SetRules& step) const {
    Config& target = undone.target;
    std::vector<RuleConfig> rules;
    std::ranges::copy_if(target.rules, std::back_inserter(rules),
                         [](const RuleConfig& rule) { return !rule.port.empty(); });
    for (const auto& [netdev, config] : target.nics) {
      const bool failed = netdev == step.nic;
      for (RuleConfig rule : failed ? still_there.rules(netdev) : rules_of(target, netdev)) {
        rule.nic = netdev;
        keep(rules, std::move(rule));
      }
    }
    target.rules = std::move(rules);
  }
  void operator()(const SetIngressRules& step) const {
    std::erase_if(undone.target.rules, [&](const RuleConfig& rule) { return rule.port == step.port; });
    if (undone.target.ports.contains(step.port)) {
      for (RuleConfig rule : still_there.ingress_rules(step.port)) {
        keep(undone.target.rules, std::move(rule));
      }
    }
  }
  void keep(std::vector<RuleConfig>& rules, RuleConfig rule) const {
    if (leads_somewhere(undone.target, rule)) {
      rules.push_back(std::move(rule));
    } else {
      undone.rules_are_left_over = true;
    }
  }
};

}  // namespace

Undone undo(Config target, const Config& before, const Action& step, const StillThere& still_there) {
  Undone undone{.target = std::move(target)};
  std::visit(Undo{undone, before, still_there}, step);
  return undone;
}

}  // namespace sluice
