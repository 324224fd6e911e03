// Desired state: what the config file says, checked as far as that is possible without touching the machine.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "demux/rule.h"
#include "port/app/app_port.h"
#include "port/nic/queue.h"
#include "worker/worker.h"

namespace sluice {

struct NicConfig {
  std::string netdev;
  std::optional<std::vector<std::uint16_t>> queues;  // none: "all"
  BindMode mode = BindMode::kAuto;
  std::uint32_t ring = 4096;  // entries of RX and fill ring; power of two, 64 .. 32768
  bool operator==(const NicConfig&) const = default;
};

// "eth1:1"
struct QueueName {
  std::string netdev;
  std::uint16_t queue = 0;
  auto operator<=>(const QueueName&) const = default;
};

struct PortConfig {
  std::string name;
  std::string type;    // "app"; "guest" and "host" are words that are kept for later: a clear error today
  std::string socket;
  std::vector<std::string> allow_users;  // names or numbers
  std::uint32_t pages = 4096;            // 64 .. 1048576
  std::uint32_t ring = 0;                // rx ring entries per lane, 0: chosen from pages
  std::vector<QueueName> queues;         // owned
  std::vector<MacAddress> mac;           // allowed sources; empty: the uplink's own
  std::string uplink;                    // netdev; empty: the only NIC, or the one whose queues it owns
  std::uint32_t stall_timeout_ms = 0;
  bool operator==(const PortConfig&) const = default;
};

struct RuleConfig {
  std::string nic;    // empty: every NIC
  std::string match;  // as written
  std::string to;     // port name, "kernel", "drop", "netdev:NAME"
  std::int32_t priority = 0;
  bool shed = false;
  auto operator<=>(const RuleConfig&) const = default;
};

struct DaemonConfig {
  std::string control = "/run/sluice/control.sock";
  std::string log = "info";
  std::uint32_t page_bytes = 2048;  // 2048 or 4096
  std::string huge_pages = "auto";  // auto | never | required
  std::vector<WorkerOptions> workers;  // at least one; id = position
  bool operator==(const DaemonConfig&) const;
};

struct Config {
  DaemonConfig daemon;
  std::map<std::string, NicConfig> nics;    // by netdev
  std::map<std::string, PortConfig> ports;  // by name
  std::vector<RuleConfig> rules;
};

// Errors: "FILE:LINE: what is wrong; what would be right". Unknown keys, wrong types, values out of range, rules to unknown
// ports, NICs or users that are not configured, a queue owned twice, owned queues outside a NIC's queues, equal sockets.
Result<Config> parse_config(std::string_view text, std::string_view file_name);
Result<Config> load_config(const std::string& path);

}  // namespace sluice
