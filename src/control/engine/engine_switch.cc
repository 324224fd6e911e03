// The engine's ports of type "guest" and "tap", and the switch between them: who is on it, how the wire's
// packets find them, and what rules say about what ports send.
#include <algorithm>

#include "base/log.h"
#include "control/engine/engine.h"
#include "control/engine/options_of.h"
#include "worker/pause.h"

namespace sluice {

namespace {

// How long the control thread waits for a worker before it goes on with other ports' work.
constexpr std::uint64_t kPausePatienceNs = 100'000'000;

}  // namespace

Result<Engine::Member> Engine::make_member(const PortConfig& config, PortId id) {
  Member member;
  member.on_switch = {.port = id,
                      .mode = config.on_switch()->mode,
                      .vlan = config.vlan,
                      .trusted = config.trust() || config.tap() != nullptr,
                      .macs = config.mac};
  member.trust = config.trust();
  // Of the NICs that there are, as for apps.
  member.uplink = uplink_of(target_, config);
  if (!member.uplink) {
    return member;
  }
  auto unit = nics_.find(*member.uplink);
  if (unit == nics_.end()) {
    return fail("its uplink {} is not there", *member.uplink);
  }
  if (std::ranges::find(config.mac, unit->second->info().mac) != config.mac.end()) {
    return fail("its address {} is that of its uplink {}, whose packets are the kernel's; choose another",
                mac_text(unit->second->info().mac), *member.uplink);
  }
  member.on_switch.uplink = unit->second->port();
  return member;
}

// All: packets for the port come to whatever worker serves the queue they arrive on. First those that can
// send by its uplink: they take what it sends.
Engine::Lanes Engine::lanes_of(const Member& member) {
  Lanes lanes;
  for (const auto& worker : workers_) {
    lanes.workers.push_back(worker->id());
  }
  if (member.uplink) {
    Nic& unit = *nics_.at(*member.uplink);
    // Those that serve come first; by their numbers, which a stable partition would keep as well, but clang
    // refuses this library's.
    std::ranges::sort(lanes.workers, {}, [&unit](WorkerId worker) {
      return std::pair(!unit.worker_sends(worker), raw(worker));
    });
    lanes.serving = static_cast<std::uint32_t>(
        std::ranges::count_if(lanes.workers, [&unit](WorkerId worker) { return unit.worker_sends(worker); }));
  }
  return lanes;
}

Result<void> Engine::add_guest(const PortConfig& config, PortId id) {
  auto member = make_member(config, id);
  SLUICE_TRY(member);
  const GuestConfig& guest = *config.guest();
  GuestPortOptions options;
  options.id = id;
  options.name = config.name;
  options.socket = guest.socket;
  options.role = guest.role;
  auto policy = policy_of(guest);
  SLUICE_TRY(policy);
  options.policy = std::move(*policy);
  // Who listens at a path that the front-end makes was able to make it there.
  options.policy.everybody = guest.role == GuestRole::kClient;
  options.macs = config.mac;
  options.vlan = config.vlan;
  options.trust = guest.trust;
  auto limits = make_source_limits(config.source_ip, config.frame_rate, config.broadcast_rate);
  SLUICE_TRY(limits);
  options.limits = std::move(*limits);
  options.uplink = member->on_switch.uplink;
  Lanes lanes = lanes_of(*member);
  options.workers = std::move(lanes.workers);
  options.serving = lanes.serving;
  options.queue_pairs = guest.queue_pairs;
  options.memory_bytes = guest.memory_bytes;
  options.all_memory = guest_memory_;
  options.sealed_memory = guest.sealed_memory;
  options.populate = guest.populate;
  options.waker = waker_.get();
  options.scratch = guest_scratch_;
  auto port = GuestPort::create(std::move(options), loop_, *this, doors_);
  SLUICE_TRY(port);
  guests_[config.name] = std::move(*port);
  add_member(config.name, std::move(*member));
  return {};
}

Result<void> Engine::add_host(const PortConfig& config, PortId id) {
  auto member = make_member(config, id);
  SLUICE_TRY(member);
  const TapConfig& tap = *config.tap();
  TapPortOptions options;
  options.id = id;
  options.name = config.name;
  options.netdev = tap.netdev;
  options.mac = config.mac.front();
  options.addresses = tap.address;
  options.mtu = tap.mtu;
  options.vlan = config.vlan;
  auto limits = make_source_limits(config.source_ip, config.frame_rate, config.broadcast_rate);
  SLUICE_TRY(limits);
  options.limits = std::move(*limits);
  options.uplink = member->on_switch.uplink;
  Lanes lanes = lanes_of(*member);
  options.workers = std::move(lanes.workers);
  options.serving = lanes.serving;
  auto port = TapPort::create(std::move(options));
  SLUICE_TRY(port);
  for (WorkerId worker : (*port)->options().workers) {
    install_lane(id, worker, &(*port)->lane(worker));
  }
  hosts_[config.name] = std::move(*port);
  set_attached(id, true);
  add_member(config.name, std::move(*member));
  return {};
}

void Engine::remove_host(const std::string& name) {
  auto found = hosts_.find(name);
  if (found == hosts_.end()) {
    return;
  }
  const TapPortOptions& options = found->second->options();
  for (WorkerId worker : options.workers) {
    remove_lane(options.id, worker);
  }
  hosts_.erase(found);
}

void Engine::add_member(const std::string& name, Member member) {
  if (member.uplink) {
    unsettled_.insert(*member.uplink);
  }
  switch_changed_ = true;
  members_[name] = std::move(member);
}

// At once, for the entry of the port table may be another port's soon.
void Engine::remove_member(const std::string& name) {
  auto found = members_.find(name);
  if (found == members_.end()) {
    return;
  }
  auto uplink = found->second.uplink;
  members_.erase(found);
  rebuild_switch();
  if (uplink) {
    if (auto done = refresh_uplink(*uplink); !done) {
      log::error("nic {}: {}", *uplink, done.error().message);
    }
  }
}

// What the steps of one apply() have left to do once for all of them.
void Engine::settle(const std::function<void(const std::string&, const Error&)>& failed) {
  if (switch_changed_) {
    rebuild_switch();
  }
  for (const std::string& netdev : std::exchange(unsettled_, {})) {
    if (auto done = refresh_uplink(netdev); !done) {
      failed("nic " + netdev, done.error());
      unsettled_.insert(netdev);  // tried again with the next change
    }
  }
}

// What the NIC does for the ports behind it: the rules for their addresses, the addresses that it takes in,
// the broadcasts that it brings.
Result<void> Engine::refresh_uplink(const std::string& netdev) {
  auto unit = nics_.find(netdev);
  if (unit == nics_.end()) {
    return {};  // away at present: done when it comes back
  }
  std::vector<RuleConfig> standing;
  for (const RuleTable::Entry& entry : rules_[netdev].entries()) {
    if (!entry.implicit) {
      standing.push_back(entry.config);
    }
  }
  SLUICE_TRY(replace_rules(netdev, standing));
  std::vector<MacAddress> macs;
  for (const auto& [name, member] : members_) {
    if (member.uplink == netdev) {
      macs.insert(macs.end(), member.on_switch.macs.begin(), member.on_switch.macs.end());
    }
  }
  return unit->second->serve_members(macs);
}

// Untagged frames are a port's without a VLAN, and of others only those that it is trusted to judge by
// itself.
std::vector<RuleConfig> Engine::implicit_rules(const std::string& netdev) const {
  std::vector<RuleConfig> rules;
  for (const auto& [name, member] : members_) {
    if (member.uplink != netdev) {
      continue;
    }
    for (const MacAddress& mac : member.on_switch.macs) {
      bool any_vlan = member.on_switch.vlan == 0 && member.trust;
      RuleConfig& rule = rules.emplace_back();
      rule.nic = netdev;
      rule.match =
          "dst_mac " + mac_text(mac) + (any_vlan ? "" : fmt::format(" vlan_id {}", member.on_switch.vlan));
      rule.to = name;
    }
  }
  return rules;
}

bool Engine::has_isolated_members() const {
  return std::ranges::any_of(target_.ports, [this](const auto& entry) {
    return entry.second.on_switch() != nullptr && !uplink_of(target_, entry.second);
  });
}

void Engine::rebuild_switch() {
  switch_changed_ = false;
  std::vector<SwitchPort> list;
  for (const auto& [name, member] : members_) {
    list.push_back(member.on_switch);
  }
  std::unique_ptr<Switch> fresh;
  auto need = [&]() -> Switch& {
    if (!fresh) {
      fresh = std::make_unique<Switch>(list);
    }
    return *fresh;
  };
  if (!list.empty()) {
    need();
  }
  for (const auto& [name, flows] : flows_) {
    if (flows.rules) {
      need().set_ingress_rules(names_.all().at(name), flows.rules);
    }
  }
  for (const auto& worker : workers_) {
    worker->call([&fresh](Worker::Tables& tables) { tables.switching = fresh.get(); });
  }
  switch_ = std::move(fresh);
}

Result<void> Engine::perform(const SetIngressRules& action) {
  Flows& flows = flows_[action.port];
  if (!flows.counts) {
    flows.counts = std::make_shared<IngressCounts>(static_cast<std::uint32_t>(workers_.size()));
  }
  auto plan = flows.table.plan(to_known_ports(action.rules),
                               [this](const std::string& to) { return port_of_rule(to); });
  SLUICE_TRY(plan);
  std::vector<Rule> rules;
  for (const RuleTable::Entry& entry : *plan) {
    rules.push_back(entry.rule);
  }
  auto compiled = PortIngressRules::create(rules, flows.counts);
  SLUICE_TRY(compiled);
  flows.rules = rules.empty() ? nullptr : *compiled;
  rebuild_switch();
  for (RuleSlot slot : flows.table.commit(std::move(*plan))) {
    flows.counts->clear(slot);  // no worker has its rule any more
  }
  return {};
}

bool Engine::quiesce(std::span<const WorkerId> workers, Patience patience,
                     const std::function<void()>& change) {
  std::vector<Worker*> concerned;
  for (WorkerId worker : workers) {
    concerned.push_back(workers_[raw(worker)].get());
  }
  const std::uint64_t limit_ns = patience == Patience::kForEver ? kPauseForEver : kPausePatienceNs;
  const auto late = Worker::pause(concerned, limit_ns, change);
  return !late;
}

}  // namespace sluice
