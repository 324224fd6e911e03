#include "control/engine.h"

#include <net/if.h>

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "base/log.h"

namespace sluice {

namespace {

// How rules name what is neither kernel, drop nor an app.
const std::string kNetdevPrefix = "netdev:";

ArenaOptions::Huge huge_option(const std::string& text) {
  if (text == "never") {
    return ArenaOptions::Huge::kNever;
  }
  return text == "required" ? ArenaOptions::Huge::kRequired : ArenaOptions::Huge::kIfAny;
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::create(const Config& config, EventLoop& loop) {
  std::unique_ptr<Engine> engine(new Engine(loop));
  engine->current_.daemon = config.daemon;
  engine->host_memory_ =
      std::make_unique<HostMemory>(config.daemon.page_bytes, huge_option(config.daemon.huge_pages));
  SLUICE_TRY(engine->start_workers(config.daemon.workers));
  Engine* self = engine.get();
  auto watch = NicWatch::start(loop, [self](const NicEvent& event) { self->on_nic_event(event); });
  if (!watch) {
    return std::unexpected(watch.error());
  }
  engine->watch_ = std::move(*watch);
  SLUICE_TRY(engine->apply(config));
  return engine;
}

Result<void> Engine::start_workers(const std::vector<WorkerOptions>& options) {
  for (const WorkerOptions& worker_options : options) {
    auto worker = Worker::start(worker_options);
    if (!worker) {
      return std::unexpected(worker.error());
    }
    workers_.push_back(std::move(*worker));
  }
  SLUICE_CHECK(!workers_.empty(), "a config has at least one worker");
  return {};
}

Engine::~Engine() {
  // Ports first, since their sessions use queues and lanes; what is still owned goes with its port.
  ports_.clear();
  while (!nics_.empty()) {
    detach_nic(nics_.begin()->first);
  }
}

Result<void> Engine::apply(const Config& fresh) {
  SLUICE_TRY(check_config(fresh));
  std::vector<Action> actions = diff(current_, fresh);
  target_ = after_diff(current_, fresh);
  SLUICE_TRY(reserve_host_memory(actions));
  std::string failures;
  for (const Action& action : actions) {
    auto done = std::visit([this](const auto& step) { return perform(step); }, action);
    if (done) {
      log::info("{}", to_string(action));
      continue;
    }
    failures +=
        fmt::format("{}{}: {}", failures.empty() ? "" : "; ", to_string(action), done.error().message);
    undo_in_target(action);
  }
  forget_unused_netdevs();
  current_ = target_;
  if (!failures.empty()) {
    return fail("{}", failures);
  }
  return {};
}

// A step failed: what it was to bring is not part of the state that runs, nor is what depends on it.
void Engine::undo_in_target(const Action& failed) {
  if (const auto* nic = std::get_if<AddNic>(&failed)) {
    target_.nics.erase(nic->nic.netdev);
    std::erase_if(target_.rules, [&](const RuleConfig& rule) { return rule.nic == nic->nic.netdev; });
  } else if (const auto* port = std::get_if<AddPort>(&failed)) {
    target_.ports.erase(port->port.name);
    std::erase_if(target_.rules, [&](const RuleConfig& rule) { return rule.to == port->port.name; });
  } else if (const auto* set = std::get_if<SetRules>(&failed)) {
    // This NIC keeps its old rules: rules for every NIC are written out per NIC, to be able to say so.
    std::vector<RuleConfig> rules;
    for (const auto& [netdev, config] : target_.nics) {
      if (netdev == set->nic) {
        for (const RuleTable::Entry& entry : rules_[netdev].entries()) {
          rules.push_back(entry.config);
          rules.back().nic = netdev;
        }
        continue;
      }
      for (RuleConfig rule : rules_of(target_, netdev)) {
        rule.nic = netdev;
        rules.push_back(rule);
      }
    }
    target_.rules = std::move(rules);
  }
}

Result<void> Engine::perform(const RestartNeeded& action) {
  for (const std::string& key : action.keys) {
    log::warn("{} keeps its old value until the daemon is restarted", key);
  }
  return {};
}

Result<void> Engine::perform(const SetLogLevel& action) {
  spdlog::set_level(spdlog::level::from_str(action.level));
  return {};
}

Result<PortId> Engine::port_of_rule(const std::string& to) {
  if (!to.starts_with(kNetdevPrefix)) {
    auto found = names_.all().find(to);
    if (found == names_.all().end()) {
      return fail("port {} is not there", to);
    }
    return found->second;
  }
  std::string netdev = to.substr(kNetdevPrefix.size());
  unsigned ifindex = ::if_nametoindex(netdev.c_str());
  if (ifindex == 0) {
    return fail_errno(errno, "netdev {}", netdev);
  }
  auto id = names_.take(to);
  if (!id) {
    return id;
  }
  PortEntry entry{PortKind::kNetdev, static_cast<int>(ifindex)};
  for (auto& [name, unit] : nics_) {
    SLUICE_TRY(unit->demux().set_port(*id, entry));
  }
  port_table_[*id] = entry;
  return id;
}

Result<void> Engine::perform(const SetRules& action) {
  auto unit = nics_.find(action.nic);
  if (unit == nics_.end()) {
    if (target_.nics.contains(action.nic) && nic_ids_.contains(action.nic)) {
      return {};  // configured and away at present: the rules are set when it comes back
    }
    return fail("nic {} is not there", action.nic);
  }
  // Rules to a port that could not be added have been named with that port's error.
  std::vector<RuleConfig> wanted;
  for (const RuleConfig& rule : action.rules) {
    if (rule.to == "kernel" || rule.to == "drop" || rule.to.starts_with(kNetdevPrefix) ||
        names_.all().contains(rule.to)) {
      wanted.push_back(rule);
    }
  }
  RuleTable& table = rules_[action.nic];
  auto plan = table.plan(wanted, [this](const std::string& to) { return port_of_rule(to); });
  if (!plan) {
    return std::unexpected(plan.error());
  }
  std::vector<Rule> rules;
  rules.reserve(plan->size());
  for (const RuleTable::Entry& entry : *plan) {
    rules.push_back(entry.rule);
  }
  SLUICE_TRY(unit->second->demux().replace_rules(rules));
  for (RuleSlot slot : table.commit(std::move(*plan))) {
    SLUICE_TRY(unit->second->demux().clear_rule_count(slot));
  }
  return {};
}

// Names of netdevs that no rule leads to any more go back to the port table.
void Engine::forget_unused_netdevs() {
  std::set<std::string> used;
  for (const auto& [netdev, table] : rules_) {
    for (const RuleTable::Entry& entry : table.entries()) {
      used.insert(entry.config.to);
    }
  }
  std::vector<std::string> unused;
  for (const auto& [name, id] : names_.all()) {
    if (name.starts_with(kNetdevPrefix) && !used.contains(name)) {
      unused.push_back(name);
    }
  }
  for (const std::string& name : unused) {
    PortId id = names_.all().at(name);
    for (auto& [netdev, unit] : nics_) {
      if (auto cleared = unit->demux().set_port(id, PortEntry{}); !cleared) {
        log::warn("nic {}: {}", netdev, cleared.error().message);
      }
    }
    port_table_.erase(id);
    names_.give_back(name);
  }
}

Result<AppPortOptions> Engine::app_options(const PortConfig& port, const std::optional<std::string>& uplink) {
  AppPortOptions options;
  options.name = port.name;
  options.socket = port.socket;
  for (const std::string& user : port.allow_users) {
    auto uid = read_user(user);
    if (!uid) {
      return std::unexpected(uid.error());
    }
    options.allow_uids.push_back(*uid);
  }
  options.pages = port.pages;
  options.page_bytes = target_.daemon.page_bytes;
  options.huge = huge_option(target_.daemon.huge_pages);
  options.ring_entries = port.ring;
  options.stall_timeout_ns = std::uint64_t{port.stall_timeout_ms} * 1'000'000;
  options.source_macs = port.mac;
  NicUnit* uplink_nic = nullptr;
  if (uplink) {
    auto found = nics_.find(*uplink);
    if (found == nics_.end()) {
      return fail("its uplink {} is not there", *uplink);
    }
    uplink_nic = found->second.get();
    options.uplink = uplink_nic->port();
    if (options.source_macs.empty()) {
      options.source_macs.push_back(uplink_nic->info().mac);
    }
  } else if (options.source_macs.empty()) {
    options.source_macs.push_back(
        MacAddress{});  // it cannot send; its programs are told an address all the same
  }
  for (const auto& worker : workers_) {
    options.workers.push_back(worker->id());
    options.worker_sends.push_back(uplink_nic != nullptr && uplink_nic->worker_sends(worker->id()));
  }
  for (const QueueName& name : port.queues) {
    auto found = nics_.find(name.netdev);
    if (found == nics_.end()) {
      return fail("its queue {}:{} is on a NIC that is not there", name.netdev, name.queue);
    }
    NicUnit& unit = *found->second;
    QueueId queue{name.queue};
    const auto& given = unit.given_queues();
    if (std::find(given.begin(), given.end(), queue) == given.end()) {
      return fail("its queue {}:{} does not exist: nic {} has {} RX queues", name.netdev, name.queue,
                  name.netdev, unit.info().rx_queues);
    }
    NicQueueOptions queue_options = unit.queue_options(queue, unit.config().mode);
    options.owned.push_back(
        OwnedQueue{unit.id(), queue, worker_of(queue, workers_.size()), pages_for_queue(queue_options, 0)});
  }
  return options;
}

Result<void> Engine::perform(const AddPort& action) {
  const PortConfig& config = action.port;
  // Of the NICs that there are: one that was asked for and cannot be had leaves the other the only one.
  auto options = app_options(config, uplink_of(target_, config));
  if (!options) {
    return std::unexpected(options.error());
  }
  auto id = names_.take(config.name);
  if (!id) {
    return std::unexpected(id.error());
  }
  options->id = *id;
  OwnedDomain& domain = domains_[*id];
  domain.queues = options->owned;
  domain.observe = config.observe;
  for (const OwnedQueue& owned : domain.queues) {
    nic_by_id(owned.nic)->close_queue(owned.queue, NicUnit::Pool::kQuiet);
  }
  set_attached(*id, false);
  auto port = AppPort::create(std::move(*options), loop_, *this);
  if (!port) {
    target_.ports.erase(config.name);  // so that its queues become the host's
    if (auto undone = perform(RemovePort{config.name}); !undone) {
      log::error("{}", undone.error().message);
    }
    return std::unexpected(port.error());
  }
  ports_[config.name] = std::move(*port);
  return {};
}

Result<void> Engine::perform(const RemovePort& action) {
  ports_.erase(action.name);  // detaches, closes its queues
  PortId id = names_.all().at(action.name);
  std::vector<OwnedQueue> queues = std::move(domains_[id].queues);
  domains_.erase(id);
  for (auto& [netdev, unit] : nics_) {
    SLUICE_TRY(unit->demux().set_port(id, PortEntry{}));
  }
  port_table_.erase(id);
  names_.give_back(action.name);
  for (const OwnedQueue& owned : queues) {
    NicUnit* unit = nic_by_id(owned.nic);
    if (unit != nullptr && !unit->queues().contains(owned.queue) &&
        !is_owned_in_target(unit->config().netdev, owned.queue)) {
      SLUICE_TRY(unit->open_host_queue(owned.queue));
    }
  }
  return {};
}

void Engine::install_lane(PortId port, WorkerId worker, Lane* lane) {
  workers_[raw(worker)]->call([port, lane](Worker::Tables& tables) {
    tables.by_port[raw(port)] = lane;
    tables.lanes.emplace_back(port, lane);
  });
}

void Engine::remove_lane(PortId port, WorkerId worker) {
  workers_[raw(worker)]->call([port](Worker::Tables& tables) {
    tables.by_port[raw(port)] = nullptr;
    std::erase_if(tables.lanes, [port](const auto& entry) { return entry.first == port; });
  });
}

void Engine::set_attached(PortId port, bool attached) {
  PortEntry entry{attached ? PortKind::kSocket : PortKind::kDetached, 0};
  port_table_[port] = entry;
  for (auto& [netdev, unit] : nics_) {
    if (auto set = unit->demux().set_port(port, entry); !set) {
      log::error("nic {}: {}", netdev, set.error().message);
    }
  }
}

void Engine::set_pressure(PortId port, WorkerId worker, bool on) {
  std::uint64_t bit = std::uint64_t{1} << raw(worker);
  if (on) {
    pressure_[raw(port)].fetch_or(bit);
  } else {
    pressure_[raw(port)].fetch_and(~bit);
  }
  for (auto& slot : demuxes_) {
    if (Demux* demux = slot.load()) {
      demux->set_pressure(port, worker, on);
    }
  }
}

Result<void> Engine::open_queues(PortId port, Arena& arena, std::span<PagePool* const> pools) {
  OwnedDomain& domain = domains_.at(port);
  SLUICE_CHECK(pools.size() == domain.queues.size(), "{} pools for {} queues", pools.size(),
               domain.queues.size());
  if (domain.queues.empty()) {
    return {};
  }
  auto umem = Umem::create(arena);
  if (!umem) {
    return std::unexpected(umem.error());
  }
  domain.umem = std::move(*umem);
  domain.pools.assign(pools.begin(), pools.end());
  for (std::size_t index = 0; index < domain.queues.size(); ++index) {
    if (auto opened = open_owned_queue(port, index, NicUnit::Pool::kQuiet); !opened) {
      close_queues(port);
      return opened;
    }
  }
  return {};
}

Result<void> Engine::open_owned_queue(PortId owner, std::size_t index, NicUnit::Pool use) {
  OwnedDomain& domain = domains_.at(owner);
  const OwnedQueue& owned = domain.queues[index];
  NicUnit* unit = nic_by_id(owned.nic);
  if (unit == nullptr) {
    return {};  // away at present: opened when the NIC comes back
  }
  // D5: in driver zero-copy mode the NIC fills the owner's pages before the program decides whose packet it
  // is. In copy mode the kernel copies after the verdict.
  BindMode mode = domain.observe ? unit->config().mode : BindMode::kCopy;
  return unit->open_owned_queue(owned.queue, owner, mode, *domain.umem, *domain.pools[index], use);
}

void Engine::close_queues(PortId port) {
  OwnedDomain& domain = domains_.at(port);
  for (const OwnedQueue& owned : domain.queues) {
    NicUnit* unit = nic_by_id(owned.nic);
    if (unit == nullptr) {
      continue;
    }
    auto open = unit->queues().find(owned.queue);
    if (open != unit->queues().end() && open->second.owner == port) {
      unit->close_queue(owned.queue, NicUnit::Pool::kQuiet);
    }
  }
  domain.pools.clear();
  domain.umem.reset();
}

NicUnit* Engine::nic_by_id(NicId id) {
  for (auto& [netdev, unit] : nics_) {
    if (unit->id() == id) {
      return unit.get();
    }
  }
  return nullptr;
}

bool Engine::is_owned_in_target(const std::string& netdev, QueueId queue) const {
  return std::any_of(target_.ports.begin(), target_.ports.end(), [&](const auto& entry) {
    const auto& queues = entry.second.queues;
    return std::find(queues.begin(), queues.end(), QueueName{netdev, raw(queue)}) != queues.end();
  });
}

}  // namespace sluice
