// Show: what the engine says of itself; the shapes stand in control/rpc/api.h.
#pragma once

#include <nlohmann/json.hpp>

#include "control/config/config.h"
#include "control/engine/nics.h"
#include "control/engine/queue_keeper.h"
#include "control/engine/rules.h"
#include "control/engine/running_port.h"
#include "control/engine/stalls.h"
#include "control/engine/workers.h"
#include "control/port_types/port_type.h"

namespace sluice {

class DoorKeeper;
class EventLoop;
class Waker;

// Control thread.
class Show {
 public:
  struct Parts {
    const Config& current;
    const PortTypes& types;
    const Workers& workers;
    const Nics& nics;
    const QueueKeeper& keeper;
    const RunningPorts& ports;
    const Rules& rules;
    const Stalls& stalls;
    const Waker& waker;
    const EventLoop& loop;
    const DoorKeeper* doors = nullptr;
  };
  explicit Show(const Parts& parts) : parts_(parts) {}

  nlohmann::json nics() const;
  nlohmann::json queues() const;
  nlohmann::json ports() const;
  nlohmann::json guests() const;
  nlohmann::json rules() const;
  nlohmann::json pools() const;
  nlohmann::json counters() const;

 private:
  nlohmann::json queue(const KeptQueue& queue) const;
  std::string owner_name(const KeptQueue& queue) const;
  nlohmann::json port(const std::string& name, const RunningPort& port) const;
  nlohmann::json port_counters(const Port& port) const;
  nlohmann::json daemon_counters() const;

  const Parts parts_;
};

}  // namespace sluice
