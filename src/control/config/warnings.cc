#include <algorithm>
#include <map>

#include "control/config/config.h"
#include "demux/rule.h"

namespace sluice {

namespace {

constexpr std::string_view kNicPrefix = "nic:";

std::string rule_text(const RuleConfig& rule, std::size_t index) {
  return fmt::format("rule {} (match \"{}\" to {})", index + 1, rule.match, rule.to);
}

bool stands_on_nic(const RuleConfig& rule, const std::string& nic) {
  return rule.port.empty() && (rule.nic.empty() || rule.nic == nic);
}

bool stands_on_port(const RuleConfig& rule, const std::string& port) {
  return rule.port == port;
}

// A rule never matches when one that is looked at earlier has the same match, or matches everything.
// Other overlaps are left alone: a wide rule behind narrow ones is how rules are meant to be written.
// Returns the rule that matches everything, if there is one.
std::optional<std::size_t> warn_of_shadowed_rules(const Config& config, const std::string& place,
                                                  bool (*stands_on)(const RuleConfig&, const std::string&),
                                                  std::vector<std::string>& warnings) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < config.rules.size(); ++i) {
    if (stands_on(config.rules[i], place)) {
      order.push_back(i);
    }
  }
  std::ranges::sort(order, [&](std::size_t a, std::size_t b) {
    return std::pair(-std::int64_t{config.rules[a].priority}, a) <
           std::pair(-std::int64_t{config.rules[b].priority}, b);
  });
  std::map<std::string, std::size_t> first;
  std::optional<std::size_t> catch_all;
  for (std::size_t i : order) {
    auto match = parse_match(config.rules[i].match);
    if (!match) {
      continue;  // check_config() says so
    }
    auto [same, is_new] = first.emplace(to_string(*match), i);
    if (catch_all || !is_new) {
      std::size_t winner = catch_all ? *catch_all : same->second;
      warnings.push_back(fmt::format("{} never matches on {}: {} comes first", rule_text(config.rules[i], i),
                                     place, rule_text(config.rules[winner], winner)));
    }
    if (*match == Match{} && !catch_all) {
      catch_all = i;
    }
  }
  return catch_all;
}

// The other ports that packets of this NIC are for, by rules and by their addresses.
std::vector<std::string> others_behind(const Config& config, const PortConfig& owner,
                                       const std::string& nic) {
  std::vector<std::string> others;
  for (const auto& [name, port] : config.ports) {
    const bool by_rule = std::ranges::any_of(
        config.rules, [&](const RuleConfig& rule) { return stands_on_nic(rule, nic) && rule.to == name; });
    if (name != owner.name && (by_rule || (port.on_switch() != nullptr && uplink_of(config, port) == nic))) {
      others.push_back(name);
    }
  }
  for (const RuleConfig& rule : config.rules) {
    if (stands_on_nic(rule, nic) && rule.to.starts_with(kNicPrefix) &&
        std::ranges::find(others, rule.to) == others.end()) {
      others.push_back(rule.to);
    }
  }
  return others;
}

// Frames for a NIC leave by its queues that no port owns (D1).
void warn_of_nic_targets(const Config& config, std::vector<std::string>& warnings) {
  for (const auto& [name, nic] : config.nics) {
    const bool is_target = std::ranges::any_of(
        config.rules, [&](const RuleConfig& rule) { return rule.to == std::string(kNicPrefix) + name; });
    if (!is_target || !nic.queues) {
      continue;
    }
    const bool all_owned = std::ranges::all_of(*nic.queues, [&](std::uint16_t queue) {
      return std::ranges::any_of(config.ports, [&](const auto& entry) {
        const std::span<const QueueName> owned = entry.second.owned_queues();
        return std::ranges::find(owned, QueueName{name, queue}) != owned.end();
      });
    });
    if (all_owned) {
      warnings.push_back(fmt::format(
          "rules lead to nic:{}, and ports own all its queues: nothing can leave by it; give it one "
          "that no port owns",
          name));
    }
  }
}

// D5: what goes to any socket of an owned queue lies in the owner's pages, so only the owner's packets do.
void warn_of_observers(const Config& config, const PortConfig& port, std::vector<std::string>& warnings) {
  const bool observe = port.app() != nullptr && port.app()->observe;
  for (const QueueName& queue : port.owned_queues()) {
    std::string name = fmt::format("{}:{}", queue.netdev, queue.queue);
    if (observe) {
      warnings.push_back(
          fmt::format("port {} owns {} with observe = true: in zero-copy mode it can read every packet "
                      "that arrives there, also the kernel's",
                      port.name, name));
    }
    const std::vector<std::string> losers = others_behind(config, port, queue.netdev);
    if (losers.empty()) {
      continue;
    }
    warnings.push_back(
        observe
            ? fmt::format("port {} owns {} with observe = true and can read packets for {} that arrive there",
                          port.name, name, fmt::join(losers, ", "))
            : fmt::format(
                  "port {} owns {}: packets for {} that arrive there are dropped as drop_owned_queue; "
                  "steer them to another queue (ethtool -N {}), or let {} share the queues",
                  port.name, name, fmt::join(losers, ", "), queue.netdev, port.name));
  }
}

void warn_of_port_filters(const Config& config, std::vector<std::string>& warnings) {
  for (std::size_t i = 0; i < config.rules.size(); ++i) {
    const auto match = parse_match(config.rules[i].match);
    if (match && config.rules[i].to == "drop" && (match->src_port || match->dst_port)) {
      warnings.push_back(
          fmt::format("{} is no firewall: fragments, and frames with headers that are not followed, have no "
                      "ports and pass it; drop by addresses or ip_proto",
                      rule_text(config.rules[i], i)));
    }
  }
}

void warn_of_addresses(const Config& config, const PortConfig& port, std::vector<std::string>& warnings) {
  if (port.trust()) {
    warnings.push_back(
        fmt::format("port {} has trust = true: it can send from any address and into any VLAN, "
                    "those of other ports too",
                    port.name));
  }
  for (const auto& [name, other] : config.ports) {
    for (const MacAddress& mac : other.mac) {
      if (port.app() != nullptr && other.on_switch() != nullptr &&
          std::ranges::find(port.mac, mac) != port.mac.end()) {
        warnings.push_back(fmt::format("port {} can send from {}, which is port {}'s address", port.name,
                                       mac_text(mac), name));
      }
    }
  }
}

void warn_of_role(const PortConfig& port, std::vector<std::string>& warnings) {
  const auto* guest = port.guest();
  if (guest != nullptr && guest->role == GuestRole::kClient && guest->allow_users.empty() &&
      guest->allow_groups.empty() && guest->allow_cgroup.empty()) {
    warnings.push_back(
        fmt::format("port {} connects to whoever made {}: add allow_users with the front-end's user",
                    port.name, guest->socket));
  }
}

// One warning for all: the word goes with the next release.
void warn_of_earlier_names(const Config& config, std::vector<std::string>& warnings) {
  std::vector<std::string_view> ports;
  for (const auto& [name, port] : config.ports) {
    if (port.earlier_name.used) {
      ports.push_back(name);
    }
  }
  if (!ports.empty()) {
    warnings.push_back(fmt::format(
        "type = \"host\" is the earlier name of \"tap\" and goes with the next release: write type = \"tap\" "
        "for port {}",
        fmt::join(ports, ", ")));
  }
}

void warn_of_port(const Config& config, const PortConfig& port, std::vector<std::string>& warnings) {
  if (!uplink_of(config, port) && !config.nics.empty()) {
    warnings.push_back(fmt::format(
        "port {} {}: there are several NICs and it names none; add uplink = \"{}\"", port.name,
        port.on_switch() != nullptr ? "reaches no wire" : "cannot send", config.nics.begin()->first));
  }
  if (port.on_switch() == nullptr && !port.uplink.empty() && port.mac.empty() && !port.trust()) {
    warnings.push_back(
        fmt::format("port {} has an uplink and sends nothing: it has no address; add mac = \"...\", one that "
                    "is no guest's, or leave out uplink",
                    port.name));
  }
  if (port.on_switch() == nullptr &&
      std::ranges::find(config.rules, port.name, &RuleConfig::to) == config.rules.end()) {
    warnings.push_back(
        fmt::format("port {} receives nothing: no rule has to = \"{}\"", port.name, port.name));
  }
  for (std::size_t i = 0; i < config.rules.size(); ++i) {
    if (config.rules[i].port == port.name && config.rules[i].to == port.name) {
      warnings.push_back(fmt::format("port {} gets its own frames back by {}: a loop, for measuring",
                                     port.name, rule_text(config.rules[i], i)));
    }
  }
  warn_of_observers(config, port, warnings);
  warn_of_addresses(config, port, warnings);
}

}  // namespace

std::vector<std::string> config_warnings(const Config& config) {
  std::vector<std::string> warnings;
  if (config.nics.empty()) {
    warnings.push_back("no NIC is configured: no packet comes from the wire; add a section [nic.NAME]");
  }
  warn_of_earlier_names(config, warnings);
  std::map<std::uint32_t, std::size_t> cpus;
  for (std::size_t i = 0; i < config.daemon.workers.size(); ++i) {
    const WorkerConfig& worker = config.daemon.workers[i];
    if (worker.cpu && !cpus.emplace(*worker.cpu, i).second) {
      warnings.push_back(
          fmt::format("workers {} and {} are both pinned to cpu {}", cpus[*worker.cpu], i, *worker.cpu));
    }
  }
  for (const auto& [name, port] : config.ports) {
    warn_of_port(config, port, warnings);
    warn_of_role(port, warnings);
    warn_of_shadowed_rules(config, name, stands_on_port, warnings);
  }
  for (const auto& [nic, unused] : config.nics) {
    auto catch_all = warn_of_shadowed_rules(config, nic, stands_on_nic, warnings);
    for (const auto& [name, port] : config.ports) {
      if (catch_all && port.on_switch() != nullptr && uplink_of(config, port) == nic) {
        warnings.push_back(
            fmt::format("port {} gets no unicast from {}: {} takes everything ahead of addresses", name, nic,
                        rule_text(config.rules[*catch_all], *catch_all)));
      }
    }
  }
  warn_of_port_filters(config, warnings);
  warn_of_nic_targets(config, warnings);
  return warnings;
}

}  // namespace sluice
