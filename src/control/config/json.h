// Ports and rules as the control socket's clients write them: the keys, checks and sentences of the config
// file.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "control/config/config.h"

namespace sluice {

// `object` has the keys of a [port.NAME] section.
Result<PortConfig> port_from_json(const std::string& name, const nlohmann::json& object);
// `object` has the keys of a [[rule]].
Result<RuleConfig> rule_from_json(const nlohmann::json& object);

}  // namespace sluice
