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

#include "base/mac.h"
#include "base/result.h"
#include "demux/rule.h"
#include "port/guest/guest_port.h"
#include "port/nic/queue.h"
#include "worker/forward/switch.h"
#include "worker/worker.h"

namespace sluice {

struct NicConfig {
  std::string netdev;
  std::optional<std::vector<std::uint16_t>> queues;  // none: "all"
  BindMode mode = BindMode::kAuto;
  std::uint32_t ring = 4096;  // entries of RX and fill ring; power of two, 64 .. 32768
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

// Keys that do not belong to the type have their default.
struct PortConfig {
  std::string name;
  std::string type;                       // "app", "guest", "host"
  std::string socket;                     // app, guest
  std::vector<std::string> allow_users;   // app, guest: names or numbers
  std::vector<std::string> allow_groups;  // app, guest: names or numbers
  std::string allow_cgroup;               // app, guest: "/machine.slice/vm0.scope"; empty: any
  std::vector<MacAddress> mac;  // allowed sources, and a guest's or host's own; app: empty sends nothing
  std::string uplink;           // netdev; empty: the only NIC, or the one whose queues it owns

  // What it may send, of any type. Rates are frames per second, 0: no limit.
  std::vector<std::string> source_ip;  // "192.0.2.5", "2001:db8::/64"; empty: any
  std::uint32_t frame_rate = 0;
  std::uint32_t broadcast_rate = 0;  // frames to group addresses

  // app, guest: what it may cost a worker beyond what its packets justify (docs/worker.md)
  std::uint32_t stall_budget_us = 20'000;  // in each window; 0: never cut off
  std::uint32_t stall_window_ms = 1'000;   // 100 .. 60000

  // app
  std::uint32_t pages = 4096;          // 64 .. 1048576
  std::uint32_t ring = 0;              // rx ring entries per lane, 0: chosen from pages
  std::vector<QueueName> queues;       // owned
  std::uint32_t attach_rate = 1;       // sessions a second, after a burst; 0: no limit
  std::uint32_t stall_timeout_ms = 0;  // 0: never cut off
  bool observe = false;  // D5: its owned queues may run in driver zero-copy mode whatever lands there

  std::uint16_t vlan = 0;  // any type: access VLAN, 1 .. 4094; 0: none

  // guest, host
  SwitchMode mode = SwitchMode::kBridge;
  bool trust = false;  // app, guest: its source addresses and tags are not checked

  // guest
  GuestPortOptions::Role role = GuestPortOptions::Role::kServer;
  std::uint32_t queue_pairs = 1;                          // 1 .. 64
  std::uint64_t memory_bytes = kDefaultGuestMemoryBytes;  // most that its regions may have together
  bool populate = false;                                  // its memory is faulted in before its rings start
  bool sealed_memory = false;                             // its memory must be sealed against shrinking

  // host
  std::string netdev;                // of the tap that is made
  std::vector<std::string> address;  // "192.0.2.1/24"
  std::uint32_t mtu = 1500;          // 68 .. 65521

  // It has addresses of its own on the switch (worker/forward/switch.h), and needs no rule to receive.
  bool is_switch_port() const { return type == "guest" || type == "host"; }
  bool operator==(const PortConfig&) const = default;
};

// Stands on what comes from the wire, or on what one port sends.
struct RuleConfig {
  std::string nic;    // empty: every NIC; of a rule on a port always
  std::string match;  // as written
  std::string to;  // port name, "kernel", "drop", "netdev:NAME"; of a rule on a port: a port name or "drop"
  std::int32_t priority = 0;
  bool shed = false;
  std::string port;  // whose frames; empty: those from the wire
  auto operator<=>(const RuleConfig&) const = default;
};

struct DaemonConfig {
  std::string control = "/run/sluice/control.sock";
  std::string control_group;  // who may use the control socket besides root; empty: nobody
  std::string log = "info";
  std::uint32_t page_bytes = 2048;                                  // 2048 or 4096
  std::string huge_pages = "auto";                                  // auto | never | required
  std::uint64_t guest_memory_bytes = kDefaultAllGuestsMemoryBytes;  // of all guests together
  std::vector<WorkerOptions> workers;                               // at least one; id = position
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
// Who may attach to an app or a guest port, of its three keys.
Result<PeerPolicy> policy_of(const PortConfig& port);
// A size as people write it: "512MiB", "64GiB", "1TiB".
Result<std::uint64_t> read_size(std::string_view text);
std::string size_text(std::uint64_t bytes);
Result<MacAddress> read_mac(std::string_view text);
std::string mac_text(const MacAddress& mac);
std::string_view idle_text(WorkerOptions::Idle idle);
std::string_view bind_mode_text(BindMode mode);
std::string_view switch_mode_text(SwitchMode mode);
std::string_view role_text(GuestPortOptions::Role role);
// An address with its prefix, for a host port: "192.0.2.1/24", "2001:db8::1/64".
bool is_cidr(const std::string& text);
// An address with or without a prefix.
bool is_address_or_cidr(const std::string& text);
// The keys of [port.NAME], of all types together.
std::vector<std::string_view> port_keys();

}  // namespace sluice
