// Between the files of the config: TOML to Config, and what is wrong with a Config as a whole.
#pragma once

#include <toml++/toml.h>

#include <optional>
#include <string>

#include "control/config/config.h"
#include "control/config/table_reader.h"

namespace sluice {

// What is wrong, and which value to blame.
struct ConfigFault {
  std::string path;
  std::string message;
};
std::optional<ConfigFault> find_config_fault(const Config& config);

Result<PortConfig> read_port(Places& places, const std::string& name, const toml::table& table);
Result<RuleConfig> read_rule(Places& places, const std::string& path, const toml::table& table);

}  // namespace sluice
