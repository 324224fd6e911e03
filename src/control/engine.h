// Engine: everything that runs, and how a change of the desired state is carried out on it.
//
//   config --diff--> actions --apply--> workers, NICs (nic_unit.h), app ports, rules (rule_table.h)
//
// Control thread only, but for set_pressure(), which workers call.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/ids.h"
#include "base/result.h"
#include "control/config.h"
#include "control/control_target.h"
#include "control/diff.h"
#include "control/host_memory.h"
#include "control/nic_unit.h"
#include "control/port_names.h"
#include "control/rule_table.h"
#include "port/app/app_port.h"
#include "port/nic/nic_watch.h"
#include "worker/worker.h"

namespace sluice {

inline constexpr std::size_t kMaxNics = 64;

class Engine final : public AppPortHost, public ControlTarget {
 public:
  // Starts the workers and carries out the whole config. An error leaves nothing behind.
  static Result<std::unique_ptr<Engine>> create(const Config& config, EventLoop& loop);
  ~Engine() override;

  // ControlTarget. apply() checks first, so that a bad config changes nothing; when the machine refuses a
  // step (a NIC is missing), the other steps are still carried out, the error names what was not, and
  // current() says what is.
  Result<void> apply(const Config& fresh) override;
  const Config& current() const override { return current_; }
  nlohmann::json show_nics() override;
  nlohmann::json show_queues() override;
  nlohmann::json show_ports() override;
  nlohmann::json show_rules() override;
  nlohmann::json show_pools() override;
  nlohmann::json show_counters() override;

 private:
  explicit Engine(EventLoop& loop) : loop_(loop) {}

  // AppPortHost.
  void install_lane(PortId port, WorkerId worker, Lane* lane) override;
  void remove_lane(PortId port, WorkerId worker) override;
  void set_attached(PortId port, bool attached) override;
  void set_pressure(PortId port, WorkerId worker, bool on) override;  // any worker's thread
  Result<void> open_queues(PortId port, Arena& arena, std::span<PagePool* const> pools) override;
  void close_queues(PortId port) override;

  // One per kind of action (control/diff.h).
  Result<void> perform(const RestartNeeded& action);
  Result<void> perform(const SetLogLevel& action);
  Result<void> perform(const SetRules& action);
  Result<void> perform(const RemovePort& action);
  Result<void> perform(const RemoveNic& action);
  Result<void> perform(const AddNic& action);
  Result<void> perform(const AddPort& action);
  void undo_in_target(const Action& failed);

  struct OwnedDomain {  // the queues of a port's domain, while the port exists
    std::unique_ptr<Umem> umem;
    std::vector<OwnedQueue> queues;  // in the order of AppPortOptions::owned
    std::vector<PagePool*> pools;    // parallel; empty while the queues are closed
    bool observe = false;
  };

  Result<void> start_workers(const std::vector<WorkerOptions>& options);
  Result<void> reserve_host_memory(const std::vector<Action>& actions);
  Result<void> attach_nic(const NicConfig& config);
  void detach_nic(const std::string& netdev);
  Result<void> open_owned_queue(PortId owner, std::size_t index, NicUnit::Pool use);
  Result<AppPortOptions> app_options(const PortConfig& port, const std::optional<std::string>& uplink);
  Result<PortId> port_of_rule(const std::string& to);
  void forget_unused_netdevs();
  bool is_owned_in_target(const std::string& netdev, QueueId queue) const;
  NicUnit* nic_by_id(NicId id);
  void on_nic_event(const NicEvent& event);
  void nic_appeared(const std::string& netdev);
  void refresh_netdev_ports();

  EventLoop& loop_;
  Config current_;  // what has been carried out
  Config target_;   // what apply() is working towards, less what has failed
  std::vector<std::unique_ptr<Worker>> workers_;
  std::unique_ptr<HostMemory> host_memory_;
  PortNames names_;
  std::map<PortId, PortEntry> port_table_;  // what every NIC's program has been told
  std::map<std::string, NicId> nic_ids_;    // of every configured NIC, there or not
  std::map<std::string, std::unique_ptr<NicUnit>> nics_;
  std::map<std::string, RuleTable> rules_;  // by NIC
  std::map<PortId, OwnedDomain> domains_;
  std::map<std::string, std::unique_ptr<AppPort>> ports_;  // after all that its sessions use: goes first
  std::unique_ptr<NicWatch> watch_;

  // For set_pressure(): changed by the control thread only, which then waits until no worker can be reading
  // the old value.
  std::array<std::atomic<Demux*>, kMaxNics> demuxes_{};
  std::array<std::atomic<std::uint64_t>, kMaxPorts> pressure_{};  // bit per worker, for NICs that come later
};

}  // namespace sluice
