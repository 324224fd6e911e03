#include "control/engine/engine.h"

#include <algorithm>

#include "base/descriptors.h"
#include "base/leave_behind.h"
#include "base/log.h"
#include "control/engine/undo.h"

namespace sluice {

namespace {

// A daemon is ready, and ends, after so long at the latest, whatever the kernel does with its queues.
constexpr std::uint64_t kReadyPatienceNs = 5'000'000'000;
constexpr std::uint64_t kEndPatienceNs = 3'000'000'000;

void append(std::string& failures, const std::string& what, const Error& error) {
  failures += fmt::format("{}{}: {}", failures.empty() ? "" : "; ", what, error.message);
}

// Where a step sets rules; "" for other steps.
std::string rules_place(const Action& action) {
  if (const auto* rules = std::get_if<SetRules>(&action)) {
    return "nic " + rules->nic;
  }
  const auto* ingress = std::get_if<SetIngressRules>(&action);
  return ingress == nullptr ? "" : "port " + ingress->port;
}

}  // namespace

// --- beginning and end ---

Result<std::unique_ptr<Engine>> Engine::create(const Config& config, Parts parts) {
  std::unique_ptr<Engine> engine(new Engine(std::move(parts)));
  SLUICE_TRY(engine->start(config));
  return engine;
}

Result<void> Engine::start(const Config& config) {
  current_.daemon = config.daemon;
  host_memory_ =
      std::make_unique<HostMemory>(config.daemon.page_bytes, huge_option(config.daemon.huge_pages));
  workers_ = SLUICE_TRY(Workers::start(config.daemon.workers, parts_.types));
  keeper_ = SLUICE_TRY(QueueKeeper::create({.loop = parts_.loop,
                                            .host_memory = host_memory_.get(),
                                            .workers = workers_->all(),
                                            .kernel = parts_.kernel}));
  wire();
  make_waker(config.daemon.workers);
  stalls_->begin(*parts_.loop, [this] { waker_->reap(); });
  watch_ = SLUICE_TRY(NicWatch::start(*parts_.loop, [this](const NicEvent& event) { on_nic_event(event); }));
  SLUICE_TRY(apply(config));
  return wait_for_queues();
}

void Engine::wire() {
  table_ = std::make_unique<PortTable>(
      PortTable::Parts{.workers_pass = [this] { workers_->pass(); },
                       .rules_lead_to = [this](PortId port) { return rules_->lead_to(port); },
                       .left_over = [this] { retry_later(); }});
  nics_ = std::make_unique<Nics>(Nics::Parts{
      .machine = parts_.machine,
      .workers = workers_->all(),
      .keeper = keeper_.get(),
      .table = table_.get(),
      .is_owned = [this](const std::string& netdev, QueueId queue) { return is_owned(netdev, queue); },
      .came_back = [this](Nic& nic) { nic_came_back(nic); },
      .report = [this](const std::string& what, const Error& error) { log_once(what, error); }});
  owned_ = std::make_unique<OwnedQueues>(
      OwnedQueues::Parts{.nic = [this](NicId id) { return nics_->find(id); }, .keeper = keeper_.get()});
  rules_ = std::make_unique<Rules>(
      Rules::Parts{.table = table_.get(),
                   .program =
                       [this](const std::string& netdev) {
                         Nic* const nic = nics_->find(netdev);
                         return nic == nullptr ? nullptr : &nic->program();
                       },
                   .ifindex = [this](const std::string& netdev) { return parts_.machine->ifindex(netdev); },
                   .workers = static_cast<std::uint32_t>(workers_->count()),
                   .publish = [this] { rebuild_switch(); }});
  stalls_ = std::make_unique<Stalls>(*workers_);
  id_rest_ = std::make_unique<IdRest>(*parts_.loop, *workers_, table_->resting(), nics_->resting());
  std::vector<const Worker*> watched;
  for (const auto& worker : workers_->all()) {
    watched.push_back(worker.get());
  }
  thread_watch_ = std::make_unique<ThreadWatch>(std::move(watched));
}

void Engine::make_waker(const std::vector<WorkerConfig>& workers) {
  Waker::Options options;
  for (const WorkerConfig& worker : workers) {
    if (worker.cpu) {
      options.cpus_of_workers.push_back(*worker.cpu);
    }
  }
  options.prepare = [this] {
    for (const auto& [word, type] : parts_.types) {
      type->prepare_waker();
    }
  };
  waker_ = std::make_unique<Waker>(options);
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
      append(failures,
             fmt::format("nic {}, queue {}", queue->wish().options.netdev, raw(queue->wish().options.queue)),
             Error{queue->why()});
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

Engine::~Engine() {
  watch_.reset();
  stalls_.reset();
  id_rest_.reset();
  ports_.clear();  // first, since their sessions use queues and lanes
  if (rules_) {
    workers_->set_switch(nullptr);
    nics_->detach_all();
  }
  if (retry_timer_ != 0) {
    parts_.loop->cancel(retry_timer_);
  }
  if (keeper_ && !keeper_->finish(kEndPatienceNs)) {
    // D7: what the kernel may still write to, and what its queues stand on, goes with the process.
    leave_behind(std::move(host_memory_));
  }
  if (parts_.doors != nullptr) {
    parts_.doors->stop_watching();
  }
}

// --- from one state to the next ---

Result<void> Engine::apply(const Config& fresh) {
  SLUICE_TRY(check_config(fresh));
  const std::vector<Action> actions = diff(current_, fresh);
  SLUICE_TRY(reserve_host_memory(actions));
  target_ = after_diff(current_, fresh);
  warn_of_few_descriptors();
  std::string failures;
  std::size_t next = 0;
  try {
    perform_all(actions, next, failures);
    settle([&failures](const std::string& what, const Error& error) { append(failures, what, error); });
    rules_->forget_unused_netdevs();
    table_->retry([](const std::string&, const Error&) {});  // what fails is tried again, and then said
  } catch (...) {                                            // no memory
    for (std::size_t i = actions.size(); i-- > next;) {
      undo_step(actions[i]);
    }
    current_ = std::move(*target_);
    target_.reset();
    retry_later();
    throw;
  }
  current_ = std::move(*target_);
  target_.reset();
  retry_later();
  id_rest_->begin();
  if (!failures.empty()) {
    return fail("{}", failures);
  }
  return {};
}

void Engine::perform_all(const std::vector<Action>& actions, std::size_t& next, std::string& failures) {
  std::set<std::string> kept;  // where rules stand that a step could not replace
  for (; next < actions.size(); ++next) {
    const Action& action = actions[next];
    if (auto done = std::visit([this](const auto& step) { return perform(step); }, action)) {
      log::info("{}", to_string(action));
      if (const std::string place = rules_place(action); !place.empty() && kept.contains(place)) {
        undo_step(action);  // to what stands now
      }
    } else {
      kept.insert(rules_place(action));
      append(failures, to_string(action), done.error());
      undo_step(action);
    }
  }
}

void Engine::undo_step(const Action& step) {
  Undone undone =
      undo(*target_, current_, step,
           {.rules = [this](const std::string& netdev) { return rules_->standing(netdev); },
            .ingress_rules = [this](const std::string& port) { return rules_->standing_ingress(port); },
            .port = [this](const std::string& name) { return ports_.contains(name); },
            .nic = [this](const std::string& netdev) { return nics_->is_configured(netdev); }});
  target_ = std::move(undone.target);
  if (!undone.rules_are_left_over) {
    return;
  }
  if (const auto* rules = std::get_if<SetRules>(&step)) {
    unruled_.insert(rules->nic);
  } else if (const auto* ingress = std::get_if<SetIngressRules>(&step)) {
    unruled_ports_.insert(ingress->port);
  }
}

// All queues of all new NICs share one arena, so its size is the sum over them.
Result<void> Engine::reserve_host_memory(const std::vector<Action>& actions) {
  std::uint64_t pages = 0;
  for (const Action& action : actions) {
    const auto* add = std::get_if<AddNic>(&action);
    if (add == nullptr) {
      continue;
    }
    const auto info = parts_.machine->nic_info(add->nic.netdev);
    if (!info) {
      continue;  // AddNic will say so
    }
    NicQueueOptions options;
    options.ring_entries = add->nic.ring;
    const std::uint64_t queues = add->nic.queues ? add->nic.queues->size() : info->rx_queues;
    pages += queues * pages_for_queue(options, 0);
  }
  return pages == 0 ? Result<void>() : host_memory_->reserve(pages);
}

// All ports may be attached at once. Who comes when there are too few is refused; better to hear it now.
void Engine::warn_of_few_descriptors() const {
  const std::uint64_t needed = descriptors_needed(parts_.types, aim(), workers_->count());
  if (needed > descriptor_limit()) {
    log::warn("{} ports need {} descriptors when all are attached, {} are allowed; raise LimitNOFILE",
              aim().ports.size(), needed, descriptor_limit());
  }
}

// --- steps ---

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

Result<void> Engine::perform(const SetRules& action) {
  if (!nics_->is_configured(action.nic)) {
    return fail("nic {} is not there", action.nic);
  }
  unruled_.erase(action.nic);
  warn_of_lost("nic " + action.nic, action.rules, nics_->find(action.nic));
  return rules_->set(action.nic, action.rules);
}

Result<void> Engine::perform(const SetIngressRules& action) {
  if (!ports_.contains(action.port)) {
    return fail("port {} is not there", action.port);
  }
  unruled_ports_.erase(action.port);
  warn_of_lost("port " + action.port, action.rules, nullptr);
  return rules_->set_ingress(action.port, action.rules);
}

Result<void> Engine::perform(const AddNic& action) {
  SLUICE_TRY(nics_->add(action.nic));
  rules_->nic_is_new(action.nic.netdev);
  unsettled_.insert(action.nic.netdev);
  return {};
}

Result<void> Engine::perform(const RemoveNic& action) {
  rules_->forget_nic(action.netdev);
  unsettled_.erase(action.netdev);
  unruled_.erase(action.netdev);
  nics_->remove(action.netdev);
  return {};
}

Result<void> Engine::perform(const AddPort& action) {
  const PortConfig& config = action.port;
  const PortId id = SLUICE_TRY(table_->take(config.name));
  Result<void> made;
  try {
    made = make_port(config, id);
  } catch (...) {  // no memory
    target_->ports.erase(config.name);
    (void)remove_port(config.name);
    throw;
  }
  if (!made) {
    target_->ports.erase(config.name);  // so that its queues become the host's
    (void)remove_port(config.name);
  }
  return made;
}

Result<void> Engine::perform(const RemovePort& action) {
  if (auto removed = remove_port(action.name); !removed) {
    return fail("it is gone, but not from every NIC's program, which is tried again: {}",
                removed.error().message);
  }
  return {};
}

// --- ports ---

Result<void> Engine::make_port(const PortConfig& config, PortId id) {
  PortType& type = type_of(parts_.types, config);
  RunningPort fresh{.traits = type.traits(config)};
  table_->set_trusted(id, fresh.traits.trusted);
  table_->set_attached(id, false);
  thread_watch_->name_port(id, config.name);
  SLUICE_TRY(need_descriptors(type.descriptors(config, workers_->count()).port));
  // Of the NICs that there are: one that was asked for and cannot be had leaves the other the only one.
  const std::optional<std::string> uplink = uplink_of(aim(), config);
  const PortPlace place = SLUICE_TRY(place_of(config, id, uplink));
  if (fresh.traits.on_switch) {
    std::optional<UplinkNic> nic;
    if (uplink) {
      nic = UplinkNic{*uplink, place.uplink, nics_->find(*uplink)->info().mac};
    }
    fresh.segment = SLUICE_TRY(segment_port(config, fresh.traits, id, nic));
  }
  owned_->claim(id, place.owned, fresh.traits.observe);
  fresh.port = SLUICE_TRY(type.make(config, place, {*workers_, *table_, *owned_}));
  if (fresh.segment) {
    switch_changed_ = true;
    if (uplink) {
      unsettled_.insert(*uplink);
    }
  }
  RunningPort& made = ports_[config.name] = std::move(fresh);
  stalls_->watch(config.name, id,
                 {.budget_us = made.traits.stall_budget_us, .window_ms = made.traits.stall_window_ms},
                 [port = made.port.get()](std::uint64_t shut_ns) { port->cut_off_stalled(shut_ns); });
  return {};
}

Result<PortPlace> Engine::place_of(const PortConfig& config, PortId id,
                                   const std::optional<std::string>& uplink) {
  PortPlace place;
  place.id = id;
  place.has_neighbours = has_neighbours();
  place.page_bytes = current_.daemon.page_bytes;
  place.huge = huge_option(current_.daemon.huge_pages);
  place.waker = waker_.get();
  const Nic* const nic = uplink ? nics_->find(*uplink) : nullptr;
  if (uplink && nic == nullptr) {
    return fail("its uplink {} is not there", *uplink);
  }
  place.uplink = nic == nullptr ? PortId::kDrop : nic->port();
  for (const auto& worker : workers_->all()) {
    place.workers.push_back(worker->id());
    place.worker_sends.push_back(nic != nullptr && nic->worker_sends(worker->id()));
  }
  for (const QueueName& name : traits_of(config).queues) {
    const Nic* const owner = nics_->find(name.netdev);
    if (owner == nullptr) {
      return fail("its queue {}:{} is on a NIC that is not there", name.netdev, name.queue);
    }
    const QueueId queue{name.queue};
    if (std::ranges::find(owner->given_queues(), queue) == owner->given_queues().end()) {
      return fail("its queue {}:{} does not exist: nic {} has {} RX queues", name.netdev, name.queue,
                  name.netdev, owner->info().rx_queues);
    }
    place.owned.push_back(
        {owner->id(), queue, worker_of(queue, workers_->count()), owner->pages_of_queue(queue)});
  }
  return place;
}

// Nothing of this fails; the error names the programs that have to be told again.
Result<void> Engine::remove_port(const std::string& name) {
  const PortId id = *table_->find(name);
  bool on_switch = false;
  stalls_->forget(name);
  if (auto found = ports_.find(name); found != ports_.end()) {
    if (found->second.segment) {
      on_switch = true;
      if (const auto& uplink = found->second.segment->uplink) {
        unsettled_.insert(*uplink);
      }
    }
    ports_.erase(found);  // takes its lanes out, closes its queues
  }
  unruled_ports_.erase(name);
  if (rules_->forget_port(name) || on_switch) {
    rebuild_switch();
  }
  const std::vector<OwnedQueue> queues = owned_->release(id);
  auto told = table_->give_back(name);
  for (const OwnedQueue& owned : queues) {
    Nic* const nic = nics_->find(owned.nic);
    if (nic != nullptr && !nic->has_queue(owned.queue) && !is_owned(nic->config().netdev, owned.queue)) {
      nic->open_host_queue(owned.queue);
    }
  }
  return told;
}

bool Engine::has_neighbours() const {
  return std::ranges::any_of(aim().ports, [this](const auto& entry) {
    return traits_of(entry.second).on_switch && !uplink_of(aim(), entry.second);
  });
}

bool Engine::is_owned(const std::string& netdev, QueueId queue) const {
  return std::ranges::any_of(aim().ports, [&](const auto& entry) {
    const std::vector<QueueName> queues = traits_of(entry.second).queues;
    return std::ranges::find(queues, QueueName{netdev, raw(queue)}) != queues.end();
  });
}

// --- segments ---

Segments Engine::segments() const {
  std::map<std::string, SegmentPort> on_switch;
  for (const auto& [name, port] : ports_) {
    if (port.segment) {
      on_switch.emplace(name, *port.segment);
    }
  }
  return make_segments(on_switch);
}

void Engine::rebuild_switch() {
  std::unique_ptr<const Switch> fresh = make_switch(segments(), rules_->ingress());
  workers_->set_switch(fresh.get());
  switch_ = std::move(fresh);
  switch_changed_ = false;
}

// What the steps of one apply() have left to do once for all of them.
void Engine::settle(const Report& failed) {
  if (switch_changed_) {
    rebuild_switch();
  }
  const Segments all = segments();
  for (const std::string& netdev : std::set<std::string>(unsettled_)) {
    if (auto done = refresh_uplink(netdev, all); !done) {
      failed("nic " + netdev, done.error());  // tried again
    } else {
      unsettled_.erase(netdev);
    }
  }
}

// What the NIC does for the ports behind it: the rules for their addresses, the addresses that it takes in,
// the broadcasts that it brings.
Result<void> Engine::refresh_uplink(const std::string& netdev, const Segments& all) {
  Nic* const nic = nics_->find(netdev);
  if (nic == nullptr) {
    return {};  // away at present: done when it comes back
  }
  const Segments::BehindNic behind = all.behind(netdev);
  SLUICE_TRY(rules_->set_implicit(netdev, behind.rules));
  return nic->serve_addresses(behind.macs);
}

Show Engine::show() const {
  return Show({.current = current_,
               .types = parts_.types,
               .workers = *workers_,
               .nics = *nics_,
               .keeper = *keeper_,
               .ports = ports_,
               .rules = *rules_,
               .stalls = *stalls_,
               .waker = *waker_,
               .loop = *parts_.loop,
               .doors = parts_.doors});
}

}  // namespace sluice
