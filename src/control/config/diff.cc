#include "control/config/diff.h"

#include <algorithm>
#include <set>

namespace sluice {

namespace {

using Names = std::set<std::string>;

// What of the old state cannot stay.
struct Leaving {
  Names nics;
  Names ports;
};

// Such a rule goes before what it leads to, and comes back behind it.
bool leads_to(const Leaving& leaving, const RuleConfig& rule) {
  constexpr std::string_view kNicPrefix = "nic:";
  return leaving.ports.contains(rule.to) ||
         (rule.to.starts_with(kNicPrefix) && leaving.nics.contains(rule.to.substr(kNicPrefix.size())));
}

bool uses(const Config& config, const PortConfig& port, const Names& nics) {
  auto uplink = uplink_of(config, port);
  return (uplink && nics.contains(*uplink)) ||
         std::ranges::any_of(port.owned_queues(),
                             [&](const QueueName& queue) { return nics.contains(queue.netdev); });
}

// Equal in effect: it does not matter whether the uplink was written or is the default.
bool same_port(const Config& old, PortConfig a, const Config& fresh, PortConfig b) {
  a.uplink = uplink_of(old, a).value_or("");
  b.uplink = uplink_of(fresh, b).value_or("");
  return a == b;
}

Leaving find_leaving(const Config& old, const Config& fresh) {
  Leaving leaving;
  for (const auto& [name, nic] : old.nics) {
    auto now = fresh.nics.find(name);
    if (now == fresh.nics.end() || now->second != nic) {
      leaving.nics.insert(name);
    }
  }
  for (const auto& [name, port] : old.ports) {
    auto now = fresh.ports.find(name);
    if (now == fresh.ports.end() || !same_port(old, port, fresh, now->second) ||
        uses(old, port, leaving.nics)) {
      leaving.ports.insert(name);
    }
  }
  return leaving;
}

RestartNeeded restart_needed(const DaemonConfig& old, const DaemonConfig& fresh) {
  RestartNeeded needed;
  auto compare = [&needed](bool same, std::string_view key) {
    if (!same) {
      needed.keys.push_back("daemon." + std::string(key));
    }
  };
  compare(old.control == fresh.control, "control");
  compare(old.control_group == fresh.control_group, "control_group");
  compare(old.page_bytes == fresh.page_bytes, "page_bytes");
  compare(old.huge_pages == fresh.huge_pages, "huge_pages");
  compare(old.guest_memory_bytes == fresh.guest_memory_bytes, "guest_memory");
  compare(old.workers == fresh.workers, "workers");
  return needed;
}

// A rule as it stands on one NIC: whether it was written for this NIC or for all makes no difference there.
std::vector<RuleConfig> standing_rules(const Config& config, const std::string& nic) {
  std::vector<RuleConfig> rules = rules_of(config, nic);
  for (RuleConfig& rule : rules) {
    rule.nic = nic;
  }
  return rules;
}

// What stays of the rules on what ports send when some ports leave, and the steps to there.
std::map<std::string, std::vector<RuleConfig>> keep_ingress_rules(const Config& old, const Leaving& leaving,
                                                                  std::vector<Action>& actions) {
  std::map<std::string, std::vector<RuleConfig>> standing;
  for (const auto& [name, unused] : old.ports) {
    std::vector<RuleConfig> rules = rules_of_port(old, name);
    std::vector<RuleConfig> kept;
    std::ranges::copy_if(rules, std::back_inserter(kept),
                         [&](const auto& rule) { return !leads_to(leaving, rule); });
    if (kept.size() != rules.size()) {
      actions.emplace_back(SetIngressRules{name, kept});
    }
    if (!leaving.ports.contains(name)) {
      standing[name] = std::move(kept);
    }
  }
  return standing;
}

}  // namespace

std::vector<Action> diff(const Config& old, const Config& fresh) {
  std::vector<Action> actions;
  if (auto restart = restart_needed(old.daemon, fresh.daemon); !restart.keys.empty()) {
    actions.emplace_back(std::move(restart));
  }
  if (old.daemon.log != fresh.daemon.log) {
    actions.emplace_back(SetLogLevel{fresh.daemon.log});
  }
  Leaving leaving = find_leaving(old, fresh);

  std::map<std::string, std::vector<RuleConfig>> standing;  // by NIC, as the steps so far leave them
  for (const auto& [nic, unused] : old.nics) {
    std::vector<RuleConfig> rules = standing_rules(old, nic);
    std::vector<RuleConfig> kept;
    if (!leaving.nics.contains(nic)) {
      std::ranges::copy_if(rules, std::back_inserter(kept),
                           [&](const auto& rule) { return !leads_to(leaving, rule); });
    }
    if (kept.size() != rules.size()) {
      actions.emplace_back(SetRules{nic, kept});
    }
    standing[nic] = std::move(kept);
  }
  std::map<std::string, std::vector<RuleConfig>> of_ports = keep_ingress_rules(old, leaving, actions);
  for (const std::string& port : leaving.ports) {
    actions.emplace_back(RemovePort{port});
  }
  for (const std::string& nic : leaving.nics) {
    actions.emplace_back(RemoveNic{nic});
  }
  for (const auto& [name, nic] : fresh.nics) {
    if (!old.nics.contains(name) || leaving.nics.contains(name)) {
      actions.emplace_back(AddNic{nic});
    }
  }
  for (const auto& [name, port] : fresh.ports) {
    if (!old.ports.contains(name) || leaving.ports.contains(name)) {
      actions.emplace_back(AddPort{port, uplink_of(fresh, port)});
    }
  }
  for (const auto& [nic, unused] : fresh.nics) {
    std::vector<RuleConfig> rules = standing_rules(fresh, nic);
    if (rules != standing[nic]) {
      actions.emplace_back(SetRules{nic, std::move(rules)});
    }
  }
  for (const auto& [name, unused] : fresh.ports) {
    std::vector<RuleConfig> rules = rules_of_port(fresh, name);
    if (rules != of_ports[name]) {
      actions.emplace_back(SetIngressRules{name, std::move(rules)});
    }
  }
  return actions;
}

Config after_diff(const Config& old, const Config& fresh) {
  Config after = fresh;
  after.daemon = old.daemon;
  after.daemon.log = fresh.daemon.log;
  return after;
}

std::string to_string(const Action& action) {
  struct Text {
    std::string operator()(const SetRules& a) const {
      return fmt::format("set {} rules on {}", a.rules.size(), a.nic);
    }
    std::string operator()(const SetIngressRules& a) const {
      return fmt::format("set {} rules on what port {} sends", a.rules.size(), a.port);
    }
    std::string operator()(const RemovePort& a) const { return "remove port " + a.name; }
    std::string operator()(const RemoveNic& a) const { return "remove nic " + a.netdev; }
    std::string operator()(const AddNic& a) const { return "add nic " + a.nic.netdev; }
    std::string operator()(const AddPort& a) const { return "add port " + a.port.name; }
    std::string operator()(const SetLogLevel& a) const { return "set the log level to " + a.level; }
    std::string operator()(const RestartNeeded& a) const {
      return fmt::format("{} changed: restart sluiced for {} to take effect", fmt::join(a.keys, ", "),
                         a.keys.size() == 1 ? "it" : "them");
    }
  };
  return std::visit(Text{}, action);
}

}  // namespace sluice
