// Engine: everything that runs, wired together, and how a change of the desired state is carried out on it.
//
//   config --diff--> actions --apply--> each part by its own step; a step that fails is undone or retried
//
//   workers.h       the threads            owned_queues.h  queues in ports' memory   segments.h  the switch
//   nics.h, nic.h   the configured NICs    queue_keeper.h  queues' life              stalls.h    ports' costs
//   port_table.h    ids and their entries  rules.h         all rules that stand      show.h      what is shown
//   undo.h          what a failed step does to the state that is aimed at
//
// Control thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "control/config/config.h"
#include "control/config/control_target.h"
#include "control/config/diff.h"
#include "control/engine/host_memory.h"
#include "control/engine/id_rest.h"
#include "control/engine/nics.h"
#include "control/engine/owned_queues.h"
#include "control/engine/port_table.h"
#include "control/engine/rules.h"
#include "control/engine/running_port.h"
#include "control/engine/segments.h"
#include "control/engine/show.h"
#include "control/engine/stalls.h"
#include "control/engine/thread_watch.h"
#include "control/engine/workers.h"
#include "control/port_types/port_type.h"
#include "door/door_keeper.h"
#include "port/nic/nic_watch.h"
#include "port/waker.h"

namespace sluice {

class Engine final : public ControlTarget {
 public:
  struct Parts {
    EventLoop* loop = nullptr;
    PortTypes types;
    DoorKeeper* doors = nullptr;  // of the types: shown, and leaves the loop when the ports have gone
    Machine* machine = &Machine::real();
    QueueKernel* kernel = &QueueKernel::real();
    std::uint64_t retry_ns = 1'000'000'000;  // between two tries of what is left over
  };
  // Starts the workers and carries out the whole config. An error leaves nothing behind.
  static Result<std::unique_ptr<Engine>> create(const Config& config, Parts parts);
  ~Engine() override;

  // ControlTarget. apply() checks first, so that a bad config changes nothing; when the machine refuses a
  // step (a NIC is missing), the other steps are still carried out, the error names what was not, and
  // current() says what is. So it does when memory runs out half way (std::bad_alloc).
  Result<void> apply(const Config& fresh) override;
  const Config& current() const override { return current_; }
  nlohmann::json show_nics() override { return show().nics(); }
  nlohmann::json show_queues() override { return show().queues(); }
  nlohmann::json show_ports() override { return show().ports(); }
  nlohmann::json show_guests() override { return show().guests(); }
  nlohmann::json show_rules() override { return show().rules(); }
  nlohmann::json show_pools() override { return show().pools(); }
  nlohmann::json show_counters() override { return show().counters(); }
  bool settled() const override { return keeper_->settled(); }
  std::string not_open() const override;
  bool healthy() const override { return thread_watch_->healthy(); }
  // Nothing is left to be tried again.
  bool at_rest() const { return !any_left_over(); }

 private:
  explicit Engine(Parts parts) : parts_(std::move(parts)) {}
  Result<void> start(const Config& config);
  void make_waker(const std::vector<WorkerConfig>& workers);
  void wire();
  Result<void> wait_for_queues();

  // One per kind of action (control/config/diff.h). What each could not do and cannot undo is left over.
  Result<void> perform(const RestartNeeded& action);
  Result<void> perform(const SetLogLevel& action);
  Result<void> perform(const SetRules& action);
  Result<void> perform(const SetIngressRules& action);
  Result<void> perform(const RemovePort& action);
  Result<void> perform(const RemoveNic& action);
  Result<void> perform(const AddNic& action);
  Result<void> perform(const AddPort& action);
  void perform_all(const std::vector<Action>& actions, std::size_t& next, std::string& failures);
  void undo_step(const Action& step);
  Result<void> reserve_host_memory(const std::vector<Action>& actions);
  void warn_of_few_descriptors() const;

  Result<void> make_port(const PortConfig& config, PortId id);
  Result<PortPlace> place_of(const PortConfig& config, PortId id, const std::optional<std::string>& uplink);
  Result<void> remove_port(const std::string& name);
  PortTraits traits_of(const PortConfig& config) const {
    return type_of(parts_.types, config).traits(config);
  }
  const Config& aim() const { return target_ ? *target_ : current_; }
  bool has_neighbours() const;
  bool is_owned(const std::string& netdev, QueueId queue) const;

  Segments segments() const;
  void rebuild_switch();
  using Report = PortTable::Report;
  void settle(const Report& failed);
  Result<void> refresh_uplink(const std::string& netdev, const Segments& segments);

  // engine_retry.cc: what could not be done is tried again.
  void nic_came_back(Nic& nic);
  void on_nic_event(const NicEvent& event);
  bool any_left_over() const;
  void retry_later();
  void retry();
  void log_once(const std::string& what, const Error& error);
  void warn_of_lost(const std::string& place, const std::vector<RuleConfig>& rules, const Nic* from);

  Show show() const;

  const Parts parts_;
  Config current_;                // what has been carried out
  std::optional<Config> target_;  // what apply() is working towards, less what has failed
  std::unique_ptr<Workers> workers_;
  std::unique_ptr<HostMemory> host_memory_;
  std::unique_ptr<QueueKeeper> keeper_;
  std::unique_ptr<PortTable> table_;
  std::unique_ptr<Nics> nics_;
  std::unique_ptr<OwnedQueues> owned_;
  std::unique_ptr<Rules> rules_;
  std::unique_ptr<const Switch> switch_;  // what the workers have
  std::unique_ptr<Stalls> stalls_;
  std::unique_ptr<IdRest> id_rest_;
  std::unique_ptr<ThreadWatch> thread_watch_;
  std::unique_ptr<Waker> waker_;

  bool switch_changed_ = false;
  std::set<std::string> unsettled_;          // NICs behind which ports have changed since settle()
  std::set<std::string> unruled_;            // NICs whose rules are not those of current_
  std::set<std::string> unruled_ports_;      // the same of rules on what ports send
  std::map<std::string, std::string> said_;  // what is wrong, by what: said once
  std::map<std::string, std::vector<std::string>> lost_;  // what rules lose, by where they stand
  EventLoop::TimerId retry_timer_ = 0;

  RunningPorts ports_;  // behind all that their sessions use: they go first
  std::unique_ptr<NicWatch> watch_;
};

}  // namespace sluice
