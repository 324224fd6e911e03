// Between the files of the config reader: TOML to Config, and where in the file each value stands.
#pragma once

#include <toml++/toml.h>

#include <map>
#include <optional>
#include <string>

#include "control/config/config.h"

namespace sluice {

// Path of a value ("port.dns.queues[1]", "rule[0].to") to its line.
using ConfigLines = std::map<std::string, std::uint32_t>;

// What is wrong with a Config as a whole, and which value to blame.
struct ConfigFault {
  std::string path;
  std::string message;
};
std::optional<ConfigFault> find_config_fault(const Config& config);

// `file` empty: the table does not come from a file, errors carry no place.
class ConfigReader {
 public:
  explicit ConfigReader(std::string file) : file_(std::move(file)) {}

  Result<Config> read(const toml::table& root);
  Result<PortConfig> read_port(const std::string& name, const toml::table& table);
  Result<RuleConfig> read_rule(const std::string& path, const toml::table& table);

  // "FILE:LINE: " of the value, or of what encloses it.
  std::string place(std::string path) const;

 private:
  Result<NicConfig> read_nic(const std::string& name, const toml::table& table);
  Result<void> read_daemon(const toml::table& table, DaemonConfig& daemon);
  Result<WorkerOptions> read_worker(const std::string& path, const toml::table& table);
  Result<void> read_sections(const toml::table& root, Config& config);

  std::string file_;
  ConfigLines lines_;

  friend class TableReader;
};

}  // namespace sluice
