// PortType: what the engine asks about ports of one type before they exist, and who makes them. main() lists
// the types there are.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "control/config/config.h"
#include "memory/arena.h"
#include "port/control_port.h"
#include "port/port_services.h"
#include "stats/counter.h"
#include "worker/forward/switch.h"

namespace sluice {

class Waker;

// What a port of any type is to the rest of the engine. A value that does not belong to the type has its
// default.
struct PortTraits {
  bool on_switch = false;    // has addresses of its own there, and needs no rule to receive
  bool trusted = false;      // hears reserved group addresses and MAC control as well
  bool judges_tags = false;  // gets tagged frames for its addresses, whatever their VLAN
  SwitchMode mode = SwitchMode::kBridge;
  std::vector<QueueName> queues;      // owned
  bool observe = false;               // D5, of those
  std::uint32_t stall_budget_us = 0;  // in each window; 0: it costs a worker nothing that is not its own
  std::uint32_t stall_window_ms = 1;
};

// Where a new port stands.
struct PortPlace {
  PortId id{0};
  PortId uplink = PortId::kDrop;   // the NIC's port that it sends by
  std::vector<WorkerId> workers;   // all of them: its packets come to whoever serves the queue they arrive on
  std::vector<bool> worker_sends;  // parallel: has a queue of the uplink
  // Ports of the switch that have no uplink either: those it can still reach without one.
  bool has_neighbours = false;
  std::vector<OwnedQueue> owned;
  std::uint32_t page_bytes = 2048;
  ArenaOptions::Huge huge = ArenaOptions::Huge::kIfAny;
  Waker* waker = nullptr;  // outlives the port
};

// The workers, those that send by the uplink first, and how many of them do. 0: none, and all are alike.
struct ServingFirst {
  std::vector<WorkerId> workers;
  std::uint32_t serving = 0;
};
ServingFirst serving_first(const PortPlace& place);

// Control thread, but for what says otherwise.
class PortType {
 public:
  virtual ~PortType() = default;

  virtual PortTraits traits(const PortConfig& config) const = 0;
  // How many descriptors a port needs that nobody uses, and whoever is attached to it besides.
  struct Descriptors {
    std::uint64_t port = 0, session = 0;
  };
  virtual Descriptors descriptors(const PortConfig& config, std::size_t workers) const = 0;
  // The port runs when this returns; an error leaves nothing of it behind.
  virtual Result<std::unique_ptr<Port>> make(const PortConfig& config, const PortPlace& place,
                                             const PortServices& services) = 0;

  // On the thread of a worker or waker, before that gives up what it never needs: what lanes of this type
  // have to take now.
  virtual void prepare_worker(WorkerId worker) const { (void)worker; }
  virtual void prepare_waker() const {}
  // What all ports of the type have together, as counters of the daemon.
  virtual void visit(CounterVisitor& visitor) const { (void)visitor; }
};

// By the word that [port.NAME] has for `type`.
using PortTypes = std::map<std::string, std::unique_ptr<PortType>, std::less<>>;

// A config that was checked has no other types.
PortType& type_of(const PortTypes& types, const PortConfig& config);

// How many descriptors all that is configured needs at one time.
std::uint64_t descriptors_needed(const PortTypes& types, const Config& config, std::size_t workers);

}  // namespace sluice
