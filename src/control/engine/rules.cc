#include "control/engine/rules.h"

#include <algorithm>
#include <cerrno>
#include <set>

#include "base/log.h"

namespace sluice {

namespace {

// How rules name a device that is no port of ours.
const std::string kNetdevPrefix = "netdev:";

// One that is away is a detached port until it comes back.
PortEntry netdev_entry(unsigned ifindex) {
  return ifindex == 0 ? PortEntry{PortKind::kDetached}
                      : PortEntry{PortKind::kNetdev, static_cast<int>(ifindex)};
}

std::vector<Rule> rules_of(const std::vector<RuleTable::Entry>& entries) {
  std::vector<Rule> rules;
  rules.reserve(entries.size());
  for (const RuleTable::Entry& entry : entries) {
    rules.push_back(entry.rule);
  }
  return rules;
}

std::vector<RuleConfig> configs_of(const RuleTable& table) {
  std::vector<RuleConfig> configs;
  for (const RuleTable::Entry& entry : table.entries()) {
    if (!entry.implicit) {
      configs.push_back(entry.config);
    }
  }
  return configs;
}

}  // namespace

Result<void> Rules::set(const std::string& netdev, const std::vector<RuleConfig>& wanted) {
  return replace(netdev, to_known_ports(wanted));
}

Result<void> Rules::set_implicit(const std::string& netdev, std::vector<RuleConfig> implicit) {
  nics_[netdev].implicit = std::move(implicit);
  return replace(netdev, to_known_ports(standing(netdev)));
}

Result<void> Rules::replace(const std::string& netdev, const std::vector<RuleConfig>& wanted) {
  NicProgram* program = parts_.program(netdev);
  if (program == nullptr) {
    return {};
  }
  OfNic& nic = nics_[netdev];
  auto plan = SLUICE_TRY(nic.table.plan(
      wanted, [this](const std::string& to) { return port_of(to); }, to_known_ports(nic.implicit)));
  SLUICE_TRY(program->replace_rules(rules_of(plan)));
  // The new rules run whatever becomes of these.
  for (RuleSlot slot : nic.table.commit(std::move(plan))) {
    if (auto cleared = program->clear_rule_count(slot); !cleared) {
      log::warn("nic {}: the count of rule {} goes on: {}", netdev, raw(slot), cleared.error().message);
    }
  }
  return {};
}

Result<void> Rules::set_ingress(const std::string& port, const std::vector<RuleConfig>& wanted) {
  OfPort& of_port = ports_[port];
  if (!of_port.counts) {
    of_port.counts = std::make_shared<IngressCounts>(parts_.workers);
  }
  auto plan = SLUICE_TRY(
      of_port.table.plan(to_known_ports(wanted), [this](const std::string& to) { return port_of(to); }));
  const std::vector<Rule> rules = rules_of(plan);
  auto compiled = SLUICE_TRY(PortIngressRules::create(rules, of_port.counts));
  const auto former = std::exchange(of_port.rules, rules.empty() ? nullptr : std::move(compiled));
  parts_.publish();
  for (RuleSlot slot : of_port.table.commit(std::move(plan))) {
    of_port.counts->clear(slot);  // no worker has its rule any more
  }
  return {};
}

void Rules::nic_is_new(const std::string& netdev) {
  nics_[netdev].table = RuleTable();
}

std::vector<RuleConfig> Rules::standing(const std::string& netdev) const {
  auto found = nics_.find(netdev);
  return found == nics_.end() ? std::vector<RuleConfig>() : configs_of(found->second.table);
}

std::vector<RuleConfig> Rules::standing_ingress(const std::string& port) const {
  auto found = ports_.find(port);
  return found == ports_.end() ? std::vector<RuleConfig>() : configs_of(found->second.table);
}

bool Rules::lead_to(PortId port) const {
  return any_leads_to(port, [this](const std::string& netdev) { return parts_.program(netdev) != nullptr; });
}

bool Rules::any_leads_to(PortId port, const std::function<bool(const std::string&)>& on_nic) const {
  const auto leads = [port](const RuleTable& table) {
    return std::ranges::any_of(table.entries(),
                               [port](const RuleTable::Entry& entry) { return entry.rule.port == port; });
  };
  for (const auto& [netdev, nic] : nics_) {
    if (on_nic(netdev) && leads(nic.table)) {
      return true;
    }
  }
  return std::ranges::any_of(ports_, [&](const auto& port_rules) { return leads(port_rules.second.table); });
}

IngressRulesByPort Rules::ingress() const {
  IngressRulesByPort by_port;
  for (const auto& [name, of_port] : ports_) {
    const auto id = parts_.table->find(name);
    if (of_port.rules && id) {
      by_port[*id] = of_port.rules;
    }
  }
  return by_port;
}

std::vector<RuleConfig> Rules::to_known_ports(const std::vector<RuleConfig>& rules) const {
  std::vector<RuleConfig> known;
  std::ranges::copy_if(rules, std::back_inserter(known), [this](const RuleConfig& rule) {
    return rule.to.starts_with(kNetdevPrefix) || parts_.table->find(rule.to);
  });
  return known;
}

Result<PortId> Rules::port_of(const std::string& to) {
  const auto known = parts_.table->find(to);
  if (!to.starts_with(kNetdevPrefix)) {
    return known ? Result<PortId>(*known) : fail("port {} is not there", to);
  }
  // One that rules led to before may be away at present.
  const std::string netdev = to.substr(kNetdevPrefix.size());
  const unsigned ifindex = parts_.ifindex(netdev);
  if (ifindex == 0 && !known) {
    return fail_errno(ENODEV, "netdev {}", netdev);
  }
  const PortId id = SLUICE_TRY(parts_.table->take(to));
  SLUICE_TRY(parts_.table->set(id, netdev_entry(ifindex)));
  return id;
}

void Rules::refresh_netdevs(const PortTable::Report& report) {
  for (const auto& [name, id] : parts_.table->names()) {
    if (name.starts_with(kNetdevPrefix)) {
      const unsigned ifindex = parts_.ifindex(name.substr(kNetdevPrefix.size()));
      if (auto set = parts_.table->set(id, netdev_entry(ifindex)); !set) {
        report(name, set.error());
      }
    }
  }
}

// A NIC that is away has its rules again when it is back.
void Rules::forget_unused_netdevs() {
  std::vector<std::string> unused;
  for (const auto& [name, id] : parts_.table->names()) {
    if (name.starts_with(kNetdevPrefix) && !any_leads_to(id, [](const std::string&) { return true; })) {
      unused.push_back(name);
    }
  }
  for (const std::string& name : unused) {
    (void)parts_.table->give_back(name);  // what is not told is tried again
  }
}

void Rules::visit(const Visit& visit) const {
  for (const auto& [netdev, nic] : nics_) {
    const NicProgram* program = parts_.program(netdev);
    for (const RuleTable::Entry& entry : nic.table.entries()) {
      const auto count = program == nullptr ? RuleCount() : program->rule_count(entry.rule.slot);
      visit(netdev, "", entry, count.value_or(RuleCount()));
    }
  }
  for (const auto& [port, of_port] : ports_) {
    for (const RuleTable::Entry& entry : of_port.table.entries()) {
      const IngressCounts::Count count = of_port.counts->count(entry.rule.slot);
      visit("", port, entry, {.packets = count.packets, .bytes = count.bytes});
    }
  }
}

}  // namespace sluice
