// RunningPort: what the engine has of each port.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "control/engine/segments.h"
#include "control/port_types/port_type.h"
#include "port/control_port.h"

namespace sluice {

struct RunningPort {
  std::unique_ptr<Port> port;
  PortTraits traits;
  std::optional<SegmentPort> segment;  // of one with addresses of its own
};

using RunningPorts = std::map<std::string, RunningPort>;

}  // namespace sluice
