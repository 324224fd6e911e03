// ControlTarget: what the control socket talks to. The engine is one; tests have a model of it.
#pragma once

#include <nlohmann/json.hpp>

#include "base/result.h"
#include "control/config/config.h"

namespace sluice {

// Control thread. The shapes of what show_... returns are in control/rpc/api.h; rule.add, port.del, reload
// and the rest are made of current() and apply() by control/rpc/serve.cc.
class ControlTarget {
 public:
  virtual ~ControlTarget() = default;

  virtual nlohmann::json show_nics() = 0;
  virtual nlohmann::json show_queues() = 0;
  virtual nlohmann::json show_ports() = 0;
  virtual nlohmann::json show_guests() = 0;
  virtual nlohmann::json show_rules() = 0;
  virtual nlohmann::json show_pools() = 0;
  virtual nlohmann::json show_counters() = 0;
  virtual nlohmann::json show_config() { return {{"toml", to_toml(current())}}; }

  // No worker is stuck: what the service manager's watchdog is told.
  virtual bool healthy() const { return true; }

  // No queue of a NIC is opening or closing.
  virtual bool settled() const { return true; }
  // The queues that are not open, and why, in one line; "": all are.
  virtual std::string not_open() const { return ""; }

  // The state that runs, which is not the file's when something was added since, or could not be carried out.
  virtual const Config& current() const = 0;
  // Brings what runs to `fresh`; an error says what could not be carried out, and current() what was.
  virtual Result<void> apply(const Config& fresh) = 0;
};

}  // namespace sluice
