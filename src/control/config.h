// Desired state: what the config file says, checked as far as that is possible without touching the NICs.
// Every key, its default and its range: docs/config.md.
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
  std::string type;  // "app"; "guest" and "host" are words that are kept for later: a clear error today
  std::string socket;
  std::vector<std::string> allow_users;  // names or numbers
  std::uint32_t pages = 4096;            // 64 .. 1048576
  std::uint32_t ring = 0;                // rx ring entries per lane, 0: chosen from pages
  std::vector<QueueName> queues;         // owned
  std::vector<MacAddress> mac;           // allowed sources; empty: the uplink's own
  std::string uplink;                    // netdev; empty: the only NIC, or the one whose queues it owns
  std::uint32_t stall_timeout_ms = 0;    // 0: never cut off
  bool observe = false;  // D5: its owned queues may run in driver zero-copy mode whatever lands there
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
  std::string control_group;  // who may use the control socket besides root; empty: nobody
  std::string log = "info";
  std::uint32_t page_bytes = 2048;     // 2048 or 4096
  std::string huge_pages = "auto";     // auto | never | required
  std::vector<WorkerOptions> workers;  // at least one; id = position
  bool operator==(const DaemonConfig&) const;
};

struct Config {
  DaemonConfig daemon;
  std::map<std::string, NicConfig> nics;    // by netdev
  std::map<std::string, PortConfig> ports;  // by name
  std::vector<RuleConfig> rules;            // in the file's order: of equal priority, the earlier wins
  bool operator==(const Config&) const = default;
};

// Errors: "FILE:LINE: what is wrong; what would be right". Unknown keys, wrong types, values out of range,
// rules to unknown ports, NICs or users that are not configured, a queue owned twice, owned queues outside a
// NIC's queues, equal sockets.
Result<Config> parse_config(std::string_view text, std::string_view file_name);
Result<Config> load_config(const std::string& path);

// The checks that go beyond one value (names, users, sockets, queues, rules), for a Config that was changed
// by hand: what parse_config() returns has passed them. The same sentences, without FILE:LINE.
Result<void> check_config(const Config& config);

// What is allowed and probably not meant, one sentence each: rules that never match, traffic that the owner
// of a queue sees.
std::vector<std::string> config_warnings(const Config& config);

// A file that parse_config() reads back into an equal Config. Keys that have their default value are left
// out.
std::string to_toml(const Config& config);

// The NIC that the port's frames leave by: the one it names, else the one whose queues it owns, else the only
// one. None: it cannot send (there are several NICs and nothing says which).
std::optional<std::string> uplink_of(const Config& config, const PortConfig& port);

// The rules that stand on this NIC, those for every NIC among them, in order.
std::vector<RuleConfig> rules_of(const Config& config, std::string_view netdev);

// A name or a number from allow_users.
Result<std::uint32_t> read_user(const std::string& user);
Result<MacAddress> read_mac(std::string_view text);
std::string mac_text(const MacAddress& mac);
std::string_view bind_mode_text(BindMode mode);

}  // namespace sluice
