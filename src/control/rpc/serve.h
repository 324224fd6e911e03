// The methods of control/rpc/api.h, served from a ControlTarget.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "control/config/control_target.h"
#include "control/rpc/protocol.h"

namespace sluice {

// `target` must outlive `methods`. `config_path` empty: there is no file, reload is an error.
void serve(RpcMethods& methods, ControlTarget& target, std::string config_path);

// Reads the file and brings the target to it: the method `reload`, and what SIGHUP does. The target logs each
// step.
Result<nlohmann::json> reload(ControlTarget& target, const std::string& config_path);

}  // namespace sluice
