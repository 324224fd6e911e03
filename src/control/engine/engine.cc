#include "control/engine/engine.h"

#include <net/if.h>

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "base/descriptors.h"
#include "base/leave_behind.h"
#include "base/log.h"
#include "control/engine/options_of.h"
#include "port/guest/virtio/call_sender.h"
#include "port/guest/virtio/guest_scratch.h"

namespace sluice {

namespace {

// A daemon is ready, and ends, after so long at the latest, whatever the kernel does with its queues.
constexpr std::uint64_t kReadyPatienceNs = 5'000'000'000;
constexpr std::uint64_t kEndPatienceNs = 3'000'000'000;

// How rules name what is neither kernel, drop nor an app.
const std::string kNetdevPrefix = "netdev:";

std::unique_ptr<Waker> make_waker(const std::vector<WorkerConfig>& workers) {
  Waker::Options options;
  for (const WorkerConfig& worker : workers) {
    if (worker.cpu) {
      options.cpus_of_workers.push_back(*worker.cpu);
    }
  }
  options.prepare = [] { (void)CallSender::of_this_thread(); };
  return std::make_unique<Waker>(options);
}

}  // namespace

Engine::Engine(EventLoop& loop, DoorKeeper& doors)
    : loop_(loop), doors_(doors), guest_scratch_(std::make_shared<WorkerScratch>()) {}

Result<std::unique_ptr<Engine>> Engine::create(const Config& config, EventLoop& loop, DoorKeeper& doors,
                                               QueueKernel& kernel) {
  std::unique_ptr<Engine> engine(new Engine(loop, doors));
  engine->current_.daemon = config.daemon;
  engine->host_memory_ =
      std::make_unique<HostMemory>(config.daemon.page_bytes, huge_option(config.daemon.huge_pages));
  engine->guest_memory_ = std::make_shared<MemoryBudget>(config.daemon.guest_memory_bytes);
  SLUICE_TRY(engine->start_workers(config.daemon.workers));
  auto keeper = QueueKeeper::create({.loop = &loop,
                                     .host_memory = engine->host_memory_.get(),
                                     .workers = engine->workers_,
                                     .kernel = &kernel});
  SLUICE_TRY(keeper);
  engine->keeper_ = std::move(*keeper);
  engine->waker_ = make_waker(config.daemon.workers);
  std::vector<const Worker*> watched;
  for (const auto& worker : engine->workers_) {
    watched.push_back(worker.get());
  }
  engine->thread_watch_ = std::make_unique<ThreadWatch>(std::move(watched));
  engine->watch_stalls();
  Engine* self = engine.get();
  auto watch = NicWatch::start(loop, [self](const NicEvent& event) { self->on_nic_event(event); });
  if (!watch) {
    return std::unexpected(watch.error());
  }
  engine->watch_ = std::move(*watch);
  SLUICE_TRY(engine->apply(config));
  SLUICE_TRY(engine->wait_for_queues());
  return engine;
}

// The start fails where the machine refuses a queue, and does not where the kernel is slow or another program
// has one: that one is tried again.
Result<void> Engine::wait_for_queues() {
  if (!keeper_->wait_settled(kReadyPatienceNs)) {
    log::warn("not open yet: {}", not_open());
  }
  std::string failures;
  for (const auto& queue : keeper_->queues()) {
    if (queue->state() == QueueState::kFailed && !queue->is_taken()) {
      failures += fmt::format("{}nic {}, queue {}: {}", failures.empty() ? "" : "; ",
                              queue->wish().options.netdev, raw(queue->wish().options.queue), queue->why());
    }
  }
  if (!failures.empty()) {
    return fail("{}", failures);
  }
  return {};
}

std::string Engine::not_open() const {
  std::string list;
  for (const auto& queue : keeper_->queues()) {
    if (!queue->open()) {
      list += fmt::format("{}{}:{} is {}{}{}", list.empty() ? "" : ", ", queue->wish().options.netdev,
                          raw(queue->wish().options.queue), text_of(queue->state()),
                          queue->why().empty() ? "" : ": ", queue->why());
    }
  }
  return list;
}

Result<void> Engine::start_workers(const std::vector<WorkerConfig>& configs) {
  for (const WorkerConfig& config : configs) {
    WorkerOptions options = worker_options(config, static_cast<WorkerId>(workers_.size()));
    // Before any local user can take what fs.aio-max-nr allows: kept until the worker ends.
    options.prepare = [id = options.id] {
      if (CallSender::of_this_thread() == nullptr) {
        log::warn(
            "worker {}: no AIO context to be had (fs.aio-max-nr): threads that wake interrupt its guests "
            "until "
            "one is",
            raw(id));
      }
    };
    auto worker = Worker::start(options);
    if (!worker) {
      return std::unexpected(worker.error());
    }
    workers_.push_back(std::move(*worker));
  }
  SLUICE_CHECK(!workers_.empty(), "a config has at least one worker");
  return {};
}

Engine::~Engine() {
  for (EventLoop::TimerId timer : {stall_timer_, retry_timer_, rest_timer_}) {
    if (timer != 0) {
      loop_.cancel(timer);
    }
  }
  // Ports first, since their sessions use queues and lanes; what is still owned goes with its port.
  apps_.clear();
  guests_.clear();
  while (!hosts_.empty()) {
    remove_host(std::string(hosts_.begin()->first));
  }
  members_.clear();
  flows_.clear();
  rebuild_switch();
  while (!nics_.empty()) {
    detach_nic(nics_.begin()->first);
  }
  if (keeper_ && !keeper_->finish(kEndPatienceNs)) {
    // D7: what the kernel may still write to, and what its queues stand on, goes with the process.
    leave_behind(std::move(host_memory_));
  }
  doors_.stop_watching();
}

Result<void> Engine::apply(const Config& fresh) {
  SLUICE_TRY(check_config(fresh));
  std::vector<Action> actions = diff(current_, fresh);
  target_ = after_diff(current_, fresh);
  SLUICE_TRY(reserve_host_memory(actions));
  warn_of_few_descriptors(target_);
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
  settle([&failures](const std::string& what, const Error& error) {
    failures += fmt::format("{}{}: {}", failures.empty() ? "" : "; ", what, error.message);
  });
  forget_unused_netdevs();
  current_ = target_;
  retry_later();
  let_ids_rest();
  if (!failures.empty()) {
    return fail("{}", failures);
  }
  return {};
}

// All ports may be attached at once. Who comes when there are too few is refused; better to hear it now.
void Engine::warn_of_few_descriptors(const Config& config) const {
  const std::uint64_t needed = descriptors_needed(config, workers_.size());
  if (needed > descriptor_limit()) {
    log::warn("{} ports need {} descriptors when all are attached, {} are allowed; raise LimitNOFILE",
              config.ports.size(), needed, descriptor_limit());
  }
}

// A step failed: what it was to bring is not part of the state that runs, nor is what depends on it.
void Engine::undo_in_target(const Action& failed) {
  if (const auto* nic = std::get_if<AddNic>(&failed)) {
    target_.nics.erase(nic->nic.netdev);
    std::erase_if(target_.rules, [&](const RuleConfig& rule) { return rule.nic == nic->nic.netdev; });
  } else if (const auto* port = std::get_if<AddPort>(&failed)) {
    target_.ports.erase(port->port.name);
    std::erase_if(target_.rules, [&](const RuleConfig& rule) {
      return rule.to == port->port.name || rule.port == port->port.name;
    });
  } else if (const auto* flows = std::get_if<SetIngressRules>(&failed)) {
    std::erase_if(target_.rules, [&](const RuleConfig& rule) { return rule.port == flows->port; });
    for (const RuleTable::Entry& entry : flows_[flows->port].table.entries()) {
      target_.rules.push_back(entry.config);
    }
  } else if (const auto* set = std::get_if<SetRules>(&failed)) {
    // This NIC keeps its old rules: rules for every NIC are written out per NIC, to be able to say so.
    std::vector<RuleConfig> rules;
    std::ranges::copy_if(target_.rules, std::back_inserter(rules),
                         [](const RuleConfig& rule) { return !rule.port.empty(); });
    for (const auto& [netdev, config] : target_.nics) {
      if (netdev == set->nic) {
        for (const RuleTable::Entry& entry : rules_[netdev].entries()) {
          if (!entry.implicit) {
            rules.push_back(entry.config);
            rules.back().nic = netdev;
          }
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
  // One that rules led to before may be away at present: it is a detached port until it comes back.
  const unsigned ifindex = ::if_nametoindex(netdev.c_str());
  if (ifindex == 0 && !names_.all().contains(to)) {
    return fail_errno(errno, "netdev {}", netdev);
  }
  auto id = names_.take(to);
  if (!id) {
    return id;
  }
  const PortEntry entry = netdev_entry(ifindex);
  for (auto& [name, unit] : nics_) {
    SLUICE_TRY(unit->demux().set_port(*id, entry));
  }
  port_table_[*id] = entry;
  return id;
}

Result<void> Engine::perform(const SetRules& action) {
  if (nics_.contains(action.nic)) {
    return replace_rules(action.nic, action.rules);
  }
  if (target_.nics.contains(action.nic) && nic_ids_.contains(action.nic)) {
    return {};  // configured and away at present: the rules are set when it comes back
  }
  return fail("nic {} is not there", action.nic);
}

// Rules to a port that could not be added have been named with that port's error.
std::vector<RuleConfig> Engine::to_known_ports(const std::vector<RuleConfig>& rules) const {
  std::vector<RuleConfig> known;
  std::ranges::copy_if(rules, std::back_inserter(known), [this](const RuleConfig& rule) {
    return rule.to.starts_with(kNetdevPrefix) || names_.all().contains(rule.to);
  });
  return known;
}

// Those that are wanted, and behind them those for the addresses of the ports behind this NIC.
Result<void> Engine::replace_rules(const std::string& netdev, const std::vector<RuleConfig>& wanted) {
  Nic& unit = *nics_.at(netdev);
  RuleTable& table = rules_[netdev];
  auto plan = table.plan(
      to_known_ports(wanted), [this](const std::string& to) { return port_of_rule(to); },
      implicit_rules(netdev));
  if (!plan) {
    return std::unexpected(plan.error());
  }
  std::vector<Rule> rules;
  rules.reserve(plan->size());
  for (const RuleTable::Entry& entry : *plan) {
    rules.push_back(entry.rule);
  }
  SLUICE_TRY(unit.demux().replace_rules(rules));
  // The new rules run whatever becomes of these.
  for (RuleSlot slot : table.commit(std::move(*plan))) {
    if (auto cleared = unit.demux().clear_rule_count(slot); !cleared) {
      log::warn("nic {}: the count of rule {} goes on: {}", netdev, raw(slot), cleared.error().message);
    }
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
    port_table_.erase(id);
    std::string failures;
    give_back_port(name, failures);
  }
}

// Not before every program has been told: one that was not would still send to the entry.
bool Engine::give_back_port(const std::string& name, std::string& failures) {
  const PortId id = names_.forget(name);
  if (can_be_told(id, PortEntry{}, failures)) {
    names_.give_back(id);
    return true;
  }
  untold_.insert(id);
  return false;
}

Result<void> Engine::perform(const AddPort& action) {
  const PortConfig& config = action.port;
  auto id = names_.take(config.name);
  if (!id) {
    return std::unexpected(id.error());
  }
  set_attached(*id, false);
  thread_watch_->name_port(*id, config.name);
  auto room = need_descriptors(port_descriptors(config, workers_.size()));
  auto added = !room                       ? std::move(room)
               : config.guest() != nullptr ? add_guest(config, *id)
               : config.tap() != nullptr   ? add_host(config, *id)
                                           : add_app(config, *id);
  if (!added) {
    target_.ports.erase(config.name);  // so that its queues become the host's
    if (auto undone = perform(RemovePort{config.name}); !undone) {
      log::error("{}", undone.error().message);
    }
    return added;
  }
  return {};
}

Result<void> Engine::perform(const RemovePort& action) {
  remove_member(action.name);
  apps_.erase(action.name);  // detaches, closes its queues
  guests_.erase(action.name);
  remove_host(action.name);
  if (flows_.erase(action.name) > 0) {
    rebuild_switch();
  }
  PortId id = names_.all().at(action.name);
  forget_stall(action.name, id);
  std::vector<OwnedQueue> queues = std::move(domains_[id].queues);
  domains_.erase(id);
  port_table_.erase(id);
  std::string failures;
  const bool told = give_back_port(action.name, failures);
  for (const OwnedQueue& owned : queues) {
    Nic* unit = nic_by_id(owned.nic);
    if (unit != nullptr && !unit->queues().contains(owned.queue) &&
        !is_owned_in_target(unit->config().netdev, owned.queue)) {
      unit->open_host_queue(owned.queue);
    }
  }
  if (!told) {
    return fail("it is gone, but not from every NIC's program, which is tried again: {}", failures);
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
  PortEntry entry{attached ? PortKind::kSocket : PortKind::kDetached, 0, is_trusted(port)};
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

Nic* Engine::nic_by_id(NicId id) {
  for (auto& [netdev, unit] : nics_) {
    if (unit->id() == id) {
      return unit.get();
    }
  }
  return nullptr;
}

// The host's own device is: the kernel bridges as it is told to.
bool Engine::is_trusted(PortId port) const {
  return std::ranges::any_of(target_.ports, [&](const auto& entry) {
    const auto named = names_.all().find(entry.first);
    return named != names_.all().end() && named->second == port &&
           (entry.second.trust() || entry.second.tap() != nullptr);
  });
}

bool Engine::is_owned_in_target(const std::string& netdev, QueueId queue) const {
  return std::any_of(target_.ports.begin(), target_.ports.end(), [&](const auto& entry) {
    const auto queues = entry.second.owned_queues();
    return std::find(queues.begin(), queues.end(), QueueName{netdev, raw(queue)}) != queues.end();
  });
}

}  // namespace sluice
