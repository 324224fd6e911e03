// Engine: everything that runs, and how a change of the desired state is carried out on it.
//
//   config --diff--> actions --apply--> workers, NICs (nic.h), ports, rules (rule_table.h), the switch
//
//   engine.cc         create, apply, ports of all types as far as they are alike, rules
//   engine_nics.cc    NICs attached, detached, lost and found again
//   engine_apps.cc    ports of type "app", and the queues that they own
//   engine_switch.cc  ports of type "guest" and "tap", and the switch between them
//   engine_retry.cc   what a step could not do is tried again; ids rest before they are used again
//   engine_show.cc    what it says of itself
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
#include "control/config/config.h"
#include "control/config/control_target.h"
#include "control/config/diff.h"
#include "control/engine/host_memory.h"
#include "control/engine/nic.h"
#include "control/engine/port_names.h"
#include "control/engine/rule_table.h"
#include "control/engine/stall_policy.h"
#include "control/engine/thread_watch.h"
#include "door/door_keeper.h"
#include "port/app/app_port.h"
#include "port/guest/guest_port.h"
#include "port/nic/nic_watch.h"
#include "port/tap/tap_port.h"
#include "port/waker.h"
#include "worker/forward/ingress_rules.h"
#include "worker/forward/switch.h"
#include "worker/worker.h"

namespace sluice {

inline constexpr std::uint16_t kMaxNics = 64;

// Descriptors: of a port that nobody uses, of whoever is attached to it, and of all that a config can have at
// one time (engine_descriptors.cc).
std::uint64_t port_descriptors(const PortConfig& port, std::size_t workers);
std::uint64_t session_descriptors(const PortConfig& port, std::size_t workers);
std::uint64_t descriptors_needed(const Config& config, std::size_t workers);

// Of a netdev that rules lead to; 0: it is away.
inline PortEntry netdev_entry(unsigned ifindex) {
  return ifindex == 0 ? PortEntry{PortKind::kDetached}
                      : PortEntry{PortKind::kNetdev, static_cast<int>(ifindex)};
}

class Engine final : public AppPortHost, public GuestPortHost, public ControlTarget {
 public:
  // Starts the workers and carries out the whole config. An error leaves nothing behind.
  static Result<std::unique_ptr<Engine>> create(const Config& config, EventLoop& loop, DoorKeeper& doors,
                                                QueueKernel& kernel = QueueKernel::real());
  ~Engine() override;

  // ControlTarget. apply() checks first, so that a bad config changes nothing; when the machine refuses a
  // step (a NIC is missing), the other steps are still carried out, the error names what was not, and
  // current() says what is.
  Result<void> apply(const Config& fresh) override;
  const Config& current() const override { return current_; }
  nlohmann::json show_nics() override;
  nlohmann::json show_queues() override;
  nlohmann::json show_ports() override;
  nlohmann::json show_guests() override;
  nlohmann::json show_rules() override;
  nlohmann::json show_pools() override;
  nlohmann::json show_counters() override;
  bool settled() const override { return keeper_->settled(); }
  std::string not_open() const override;
  bool healthy() const override { return thread_watch_ == nullptr || thread_watch_->healthy(); }

 private:
  Engine(EventLoop& loop, DoorKeeper& doors);

  // AppPortHost and GuestPortHost.
  void install_lane(PortId port, WorkerId worker, Lane* lane) override;
  void remove_lane(PortId port, WorkerId worker) override;
  void set_attached(PortId port, bool attached) override;
  // GuestPortHost. `change` runs on the control thread while the workers wait.
  bool quiesce(std::span<const WorkerId> workers, Patience patience,
               const std::function<void()>& change) override;
  // AppPortHost.
  void set_pressure(PortId port, WorkerId worker, bool on) override;  // any worker's thread
  Result<void> open_queues(PortId port, Arena& arena, std::span<PagePool* const> pools) override;
  bool queues_are_opening(PortId port) override;
  void close_queues(PortId port, std::function<void()> closed) override;

  // One per kind of action (control/config/diff.h).
  Result<void> perform(const RestartNeeded& action);
  Result<void> perform(const SetLogLevel& action);
  Result<void> perform(const SetRules& action);
  Result<void> perform(const SetIngressRules& action);
  Result<void> perform(const RemovePort& action);
  Result<void> perform(const RemoveNic& action);
  Result<void> perform(const AddNic& action);
  Result<void> perform(const AddPort& action);
  void undo_in_target(const Action& failed);
  void warn_of_few_descriptors(const Config& config) const;

  // engine_stall.cc: what ports cost the workers.
  struct Stall {
    StallPolicy policy;
    std::uint64_t charged_us = 0;  // by all workers, at the end of the last window
    std::uint64_t window_end_ns = 0;
  };
  void watch_stalls();
  void watch_stalls_in(std::uint64_t delay_ns);
  void end_window(const std::string& name, const SocketConfig& limits, Stall& stall, PortId port);
  void begin_window(PortId port, std::uint64_t budget_us);
  void forget_stall(const std::string& name, PortId port);
  void show_costs(nlohmann::json& port, const std::string& name, PortId id) const;

  nlohmann::json show_port(const std::string& name, PortId id,
                           const std::function<void(CounterVisitor&)>& visit);
  nlohmann::json show_queue(const KeptQueue& queue) const;
  std::string owner_name(const KeptQueue& queue) const;
  nlohmann::json show_app(const std::string& name);
  nlohmann::json show_guest_port(const std::string& name);
  nlohmann::json show_host(const std::string& name);

  struct OwnedDomain {  // the queues of a port's domain, while the port exists
    std::unique_ptr<Umem> umem;
    std::vector<OwnedQueue> queues;  // in the order of AppPortOptions::owned
    std::vector<PagePool*> pools;    // parallel; empty while the queues are closed
    bool observe = false;
  };

  // A port that runs and has addresses of its own: a guest, the host.
  struct Member {
    SwitchPort on_switch;
    std::optional<std::string> uplink;  // netdev
    bool trust = false;
  };
  struct Lanes {
    std::vector<WorkerId> workers;
    std::uint32_t serving = 0;  // the first so many of them; 0: all, none of them can send by the uplink
  };
  struct Flows {  // the rules on what one port sends
    RuleTable table;
    std::shared_ptr<IngressCounts> counts;
    std::shared_ptr<const PortIngressRules> rules;
  };

  Result<void> start_workers(const std::vector<WorkerConfig>& configs);
  Result<void> reserve_host_memory(const std::vector<Action>& actions);
  Result<void> wait_for_queues();
  Result<void> attach_nic(const NicConfig& config);
  void detach_nic(const std::string& netdev);
  void give_back_nic(const std::string& netdev);
  void open_owned_queue(PortId owner, std::size_t index);
  Result<void> add_app(const PortConfig& config, PortId id);
  Result<void> add_guest(const PortConfig& config, PortId id);
  Result<void> add_host(const PortConfig& config, PortId id);
  Result<Member> make_member(const PortConfig& config, PortId id);
  Lanes lanes_of(const Member& member);
  void add_member(const std::string& name, Member member);
  void remove_member(const std::string& name);
  void remove_host(const std::string& name);
  // engine_retry.cc
  void retry_later();
  void retry();
  void retry_nics();
  void tell_programs();
  bool can_be_told(PortId id, const PortEntry& entry, std::string& failures);
  void log_once(const std::string& what, const Error& error);
  void let_ids_rest();
  void look_at_rest();
  bool frames_are_gone();

  void settle(const std::function<void(const std::string&, const Error&)>& failed);
  Result<void> refresh_uplink(const std::string& netdev);
  Result<void> replace_rules(const std::string& netdev, const std::vector<RuleConfig>& wanted);
  void rebuild_switch();
  std::vector<RuleConfig> implicit_rules(const std::string& netdev) const;
  bool has_isolated_members() const;
  std::vector<RuleConfig> to_known_ports(const std::vector<RuleConfig>& rules) const;
  Result<AppPortOptions> app_options(const PortConfig& port, const std::optional<std::string>& uplink);
  Result<PortId> port_of_rule(const std::string& to);
  void forget_unused_netdevs();
  bool give_back_port(const std::string& name, std::string& failures);
  bool is_trusted(PortId port) const;
  bool is_owned_in_target(const std::string& netdev, QueueId queue) const;
  Nic* nic_by_id(NicId id);
  void on_nic_event(const NicEvent& event);
  void nic_appeared(const std::string& netdev);
  void refresh_netdev_ports();

  EventLoop& loop_;
  DoorKeeper& doors_;
  Config current_;  // what has been carried out
  Config target_;   // what apply() is working towards, less what has failed
  std::vector<std::unique_ptr<Worker>> workers_;
  std::unique_ptr<HostMemory> host_memory_;
  std::shared_ptr<MemoryBudget> guest_memory_;  // of all guests together
  const std::shared_ptr<WorkerScratch> guest_scratch_;
  std::unique_ptr<QueueKeeper> keeper_;
  PortNames names_;
  std::map<PortId, PortEntry> port_table_;  // what every NIC's program has been told
  std::map<std::string, NicId> nic_ids_;    // of every configured NIC, there or not
  std::map<std::string, std::unique_ptr<Nic>> nics_;
  std::map<std::string, RuleTable> rules_;  // by NIC
  std::map<PortId, OwnedDomain> domains_;
  std::map<std::string, Member> members_;  // ports of the switch that run, by name
  std::map<std::string, Flows> flows_;     // by the name of the port that sends
  std::unique_ptr<const Switch> switch_;   // what the workers have
  std::set<std::string> unsettled_;        // NICs whose members have changed since settle()
  bool switch_changed_ = false;
  std::set<std::string> unruled_;            // NICs that came back and could not be given their rules
  std::set<PortId> untold_;                  // removed ports whose entry some NIC's program still has
  std::map<std::string, std::string> said_;  // what is wrong, by what: said once
  EventLoop::TimerId retry_timer_ = 0;
  std::uint64_t nic_retry_ns_ = 0, nic_retry_pause_ns_ = 0;
  RestingIds free_nic_ids_{0, kMaxNics};
  std::vector<std::uint64_t> rest_begun_;  // turns of the workers, when the present round began
  EventLoop::TimerId rest_timer_ = 0;
  std::map<std::string, Stall> stalls_;  // by port
  EventLoop::TimerId stall_timer_ = 0;
  std::unique_ptr<ThreadWatch> thread_watch_;
  std::unique_ptr<Waker> waker_;
  // After all that their sessions use: they go first.
  std::map<std::string, std::unique_ptr<AppPort>> apps_;
  std::map<std::string, std::unique_ptr<GuestPort>> guests_;
  std::map<std::string, std::unique_ptr<TapPort>> hosts_;
  std::unique_ptr<NicWatch> watch_;

  // For set_pressure(): changed by the control thread only, which then waits until no worker can be reading
  // the old value.
  std::array<std::atomic<Demux*>, kMaxNics> demuxes_{};
  std::array<std::atomic<std::uint64_t>, kMaxPorts> pressure_{};  // bit per worker, for NICs that come later
};

}  // namespace sluice
