// Desired state: what the config file says, checked as far as that is possible without touching the NICs.
// Every key, its range and what it means: keys.cc, of which docs/config.md has its tables.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/choices.h"
#include "base/mac.h"
#include "base/result.h"

namespace sluice {

struct NicConfig {
  std::string netdev;
  std::optional<std::vector<std::uint16_t>> queues;  // none: "all"
  BindMode mode = BindMode::kAuto;
  std::uint32_t ring = 4096;
  bool operator==(const NicConfig&) const = default;
};

// What one guest's regions may have together, and those of all guests: half of a process's address space.
inline constexpr std::uint64_t kDefaultGuestMemoryBytes = std::uint64_t{256} << 30;
inline constexpr std::uint64_t kDefaultAllGuestsMemoryBytes = std::uint64_t{64} << 40;

// "eth1:1"
struct QueueName {
  std::string netdev;
  std::uint16_t queue = 0;
  auto operator<=>(const QueueName&) const = default;
};

// Of a port that somebody attaches to by a Unix socket: an app or a guest.
struct SocketConfig {
  std::string socket;
  std::vector<std::string> allow_users;   // names or numbers
  std::vector<std::string> allow_groups;  // names or numbers
  std::string allow_cgroup;               // "/machine.slice/vm0.scope"; empty: any
  bool trust = false;                     // its source addresses and tags are not checked
  std::uint32_t stall_budget_us = 20'000;
  std::uint32_t stall_window_ms = 1'000;
  bool operator==(const SocketConfig&) const = default;
};

// Of a port that has addresses of its own on the switch (worker/forward/switch.h), and needs no rule to
// receive: a guest or a tap.
struct SwitchPortConfig {
  SwitchMode mode = SwitchMode::kBridge;
  bool operator==(const SwitchPortConfig&) const = default;
};

struct AppConfig : SocketConfig {
  std::uint32_t pages = 4096;
  std::uint32_t ring = 0;         // 0: chosen from pages
  std::vector<QueueName> queues;  // owned
  std::uint32_t attach_rate = 1;
  std::uint32_t stall_timeout_ms = 0;
  bool observe = false;  // D5
  bool operator==(const AppConfig&) const = default;
};

struct GuestConfig : SocketConfig, SwitchPortConfig {
  GuestRole role = GuestRole::kServer;
  std::uint32_t queue_pairs = 1;
  std::uint64_t memory_bytes = kDefaultGuestMemoryBytes;
  bool populate = false;
  bool sealed_memory = false;
  bool operator==(const GuestConfig&) const = default;
};

struct TapConfig : SwitchPortConfig {
  std::string netdev;                // of the device that is made
  std::vector<std::string> address;  // "192.0.2.1/24"
  std::uint32_t mtu = 1500;
  bool operator==(const TapConfig&) const = default;
};

// The words of `type`, in the order of PortConfig::of_type.
inline constexpr std::string_view kPortTypes[] = {"app", "guest", "tap"};

// The type was written by its earlier name, "host". No part of the state: equal to any other.
struct EarlierName {
  bool used = false;
  bool operator==(const EarlierName&) const { return true; }
};

struct PortConfig {
  std::string name;
  EarlierName earlier_name;
  // What every type has.
  std::vector<MacAddress> mac;  // allowed sources, and a guest's or tap's own; app: empty sends nothing
  std::uint16_t vlan = 0;       // access VLAN; 0: none
  std::string uplink;           // netdev; empty: the only NIC, or the one whose queues it owns
  std::vector<std::string> source_ip;  // "192.0.2.5", "2001:db8::/64"; empty: any
  std::uint32_t frame_rate = 0;
  std::uint32_t broadcast_rate = 0;

  std::variant<AppConfig, GuestConfig, TapConfig> of_type;

  std::string_view type() const { return kPortTypes[of_type.index()]; }
  // Null: it is of another type.
  const AppConfig* app() const { return std::get_if<AppConfig>(&of_type); }
  const GuestConfig* guest() const { return std::get_if<GuestConfig>(&of_type); }
  const TapConfig* tap() const { return std::get_if<TapConfig>(&of_type); }
  AppConfig* app() { return std::get_if<AppConfig>(&of_type); }
  GuestConfig* guest() { return std::get_if<GuestConfig>(&of_type); }
  TapConfig* tap() { return std::get_if<TapConfig>(&of_type); }
  const SocketConfig* by_socket() const {
    return app() != nullptr ? static_cast<const SocketConfig*>(app()) : guest();
  }
  SocketConfig* by_socket() { return app() != nullptr ? static_cast<SocketConfig*>(app()) : guest(); }
  const SwitchPortConfig* on_switch() const {
    return guest() != nullptr ? static_cast<const SwitchPortConfig*>(guest()) : tap();
  }
  bool trust() const { return by_socket() != nullptr && by_socket()->trust; }
  std::span<const QueueName> owned_queues() const {
    return app() != nullptr ? std::span(app()->queues) : std::span<const QueueName>();
  }
  bool operator==(const PortConfig&) const = default;
};

// Stands on what comes from the wire, or on what one port sends.
struct RuleConfig {
  std::string nic;    // empty: every NIC; of a rule on a port always
  std::string match;  // as written
  // A port's name, "nic:NAME" or "drop"; of a rule on what comes from the wire also "kernel", "netdev:NAME".
  std::string to;
  std::int32_t priority = 0;
  bool shed = false;
  std::string port;  // whose frames; empty: those from the wire
  auto operator<=>(const RuleConfig&) const = default;
};

struct WorkerConfig {
  std::optional<std::uint32_t> cpu;  // pinned there; else the scheduler chooses
  IdleMode idle = IdleMode::kAdaptive;
  std::uint32_t latency_us = 50;
  bool operator==(const WorkerConfig&) const = default;
};

struct DaemonConfig {
  std::string control = "/run/sluice/control.sock";
  std::string control_group;  // who may use the control socket besides root; empty: nobody
  std::string log = "info";
  std::uint32_t page_bytes = 2048;
  std::string huge_pages = "auto";
  std::uint64_t guest_memory_bytes = kDefaultAllGuestsMemoryBytes;  // of all guests together
  std::vector<WorkerConfig> workers;                                // at least one; its position is its id
  bool operator==(const DaemonConfig&) const = default;
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
// NIC's queues, equal sockets, one address twice on one switch.
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
// The rules that stand on what this port sends, in order.
std::vector<RuleConfig> rules_of_port(const Config& config, std::string_view port);

// A name or a number from allow_users.
Result<std::uint32_t> read_user(const std::string& user);
// The same for allow_groups.
Result<std::uint32_t> read_group(const std::string& group);
// A size as people write it: "512MiB", "64GiB", "1TiB".
Result<std::uint64_t> read_size(std::string_view text);
std::string size_text(std::uint64_t bytes);
Result<MacAddress> read_mac(std::string_view text);
std::string mac_text(const MacAddress& mac);
// An address with its prefix, for a tap: "192.0.2.1/24", "2001:db8::1/64".
bool is_cidr(const std::string& text);
// An address with or without a prefix.
bool is_address_or_cidr(const std::string& text);

}  // namespace sluice
