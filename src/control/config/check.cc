// What several values of a Config must have to do with each other. Pure, but for the names of users and
// groups.
#include <grp.h>
#include <net/if.h>
#include <sys/un.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "control/config/config.h"
#include "control/config/did_you_mean.h"
#include "control/config/read.h"
#include "demux/rule.h"

namespace sluice {

namespace {

constexpr std::size_t kMaxPortNameBytes = 32;
constexpr std::string_view kNetdevPrefix = "netdev:";
constexpr std::string_view kNicPrefix = "nic:";

using Fault = std::optional<ConfigFault>;

template <typename... Args>
ConfigFault fault(std::string path, fmt::format_string<Args...> format, Args&&... args) {
  return ConfigFault{std::move(path), fmt::format(format, std::forward<Args>(args)...)};
}

template <typename Map>
std::vector<std::string_view> keys_of(const Map& map) {
  std::vector<std::string_view> names;
  for (const auto& [name, value] : map) {
    names.push_back(name);
  }
  return names;
}

// dev_valid_name() of the kernel, net/core/dev.c.
bool valid_netdev(std::string_view name) {
  return !name.empty() && name.size() < IFNAMSIZ && name != "." && name != ".." &&
         std::ranges::none_of(
             name,
             [](char c) { return c == '/' || c == ':' || std::isspace(static_cast<unsigned char>(c)); });
}

bool valid_port_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxPortNameBytes && std::ranges::all_of(name, [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
  });
}

Fault check_socket_path(const std::string& path, const std::string& socket) {
  if (!socket.starts_with('/') || socket.ends_with('/')) {
    return fault(path, "{} is \"{}\"; it must be an absolute path, for example \"/run/sluice/name.sock\"",
                 path, socket);
  }
  if (socket.find('\0') != std::string::npos) {
    return fault(path, "{} holds a zero byte; it must be a path", path);
  }
  if (socket.size() >= sizeof(sockaddr_un{}.sun_path)) {
    return fault(path, "{} has {} bytes; a Unix socket's path has at most {}", path, socket.size(),
                 sizeof(sockaddr_un{}.sun_path) - 1);
  }
  return std::nullopt;
}

Fault check_daemon(const DaemonConfig& daemon) {
  if (auto wrong = check_socket_path("daemon.control", daemon.control)) {
    return wrong;
  }
  if (!daemon.control_group.empty() && ::getgrnam(daemon.control_group.c_str()) == nullptr) {
    return fault("daemon.control_group",
                 "daemon.control_group: there is no group \"{}\"; create it or leave the key out",
                 daemon.control_group);
  }
  for (std::size_t i = 0; i < daemon.workers.size(); ++i) {
    if (daemon.workers[i].idle == IdleMode::kAwake && !daemon.workers[i].cpu) {
      std::string path = fmt::format("daemon.workers[{}].idle", i);
      return fault(path, "{} is \"awake\", which needs a `cpu` to keep awake", path);
    }
  }
  return std::nullopt;
}

Fault check_nic(const std::string& name, const NicConfig& nic) {
  std::string path = "nic." + name;
  if (!valid_netdev(name)) {
    return fault(path, "nic.\"{}\" is not the name of a network device; see `ip link`", name);
  }
  if (!nic.queues) {
    return std::nullopt;
  }
  if (nic.queues->empty()) {
    return fault(path + ".queues",
                 "{}.queues is empty; list the queues, for example [0, 1], or write \"all\"", path);
  }
  std::set<std::uint16_t> seen;
  for (std::size_t i = 0; i < nic.queues->size(); ++i) {
    if (!seen.insert((*nic.queues)[i]).second) {
      return fault(fmt::format("{}.queues[{}]", path, i), "{}.queues names queue {} twice; once is enough",
                   path, (*nic.queues)[i]);
    }
  }
  return std::nullopt;
}

Fault check_owned_queues(const Config& config, const PortConfig& port,
                         std::map<QueueName, std::string>& owners) {
  for (std::size_t i = 0; i < port.owned_queues().size(); ++i) {
    const QueueName& queue = port.owned_queues()[i];
    std::string path = fmt::format("port.{}.queues[{}]", port.name, i);
    auto nic = config.nics.find(queue.netdev);
    if (nic == config.nics.end()) {
      return fault(path, "port.{}.queues: NIC {} is not configured; add a section [nic.{}]", port.name,
                   queue.netdev, queue.netdev);
    }
    if (nic->second.queues &&
        std::ranges::find(*nic->second.queues, queue.queue) == nic->second.queues->end()) {
      return fault(path,
                   "port.{}.queues: queue {} is not among nic.{}.queues; add it there or take one of {}",
                   port.name, queue.queue, queue.netdev, fmt::join(*nic->second.queues, ", "));
    }
    auto [owner, is_new] = owners.emplace(queue, port.name);
    if (!is_new && owner->second == port.name) {
      return fault(path, "port.{}.queues names {}:{} twice; once is enough", port.name, queue.netdev,
                   queue.queue);
    }
    if (!is_new) {
      return fault(path, "port.{}.queues: {}:{} is owned by port {} already; a queue has one owner",
                   port.name, queue.netdev, queue.queue, owner->second);
    }
  }
  return std::nullopt;
}

Fault check_macs(const std::string& path, const PortConfig& port) {
  if (port.on_switch() != nullptr && port.mac.empty()) {
    return fault(path, "{} has no mac; write for example mac = \"52:54:00:00:00:01\"", path);
  }
  for (std::size_t i = 0; i < port.mac.size(); ++i) {
    if ((port.mac[i][0] & 1) != 0) {
      return fault(fmt::format("{}.mac[{}]", path, i),
                   "{}.mac: {} is a group address and cannot be a source; the first byte must be even", path,
                   mac_text(port.mac[i]));
    }
    if (port.on_switch() != nullptr && port.mac[i] == MacAddress{}) {
      return fault(fmt::format("{}.mac[{}]", path, i), "{}.mac: {} is nobody's address; choose another", path,
                   mac_text(port.mac[i]));
    }
  }
  if (port.tap() != nullptr && port.mac.size() != 1) {
    return fault(path + ".mac", "{}.mac has {} addresses; a network device has one", path, port.mac.size());
  }
  return std::nullopt;
}

Fault check_tap(const std::string& path, const Config& config, const TapConfig& tap) {
  if (!valid_netdev(tap.netdev)) {
    return fault(path + ".netdev",
                 "{}.netdev is \"{}\"; it must be the name of a network device, 1 to {} characters", path,
                 tap.netdev, IFNAMSIZ - 1);
  }
  if (config.nics.contains(tap.netdev)) {
    return fault(path + ".netdev",
                 "{}.netdev: {} is a NIC; it is a new device that is made, choose another name", path,
                 tap.netdev);
  }
  return std::nullopt;
}

// Where it listens, and who may attach.
Fault check_socket(const std::string& path, const SocketConfig& port) {
  if (auto wrong = check_socket_path(path + ".socket", port.socket)) {
    return wrong;
  }
  for (std::size_t i = 0; i < port.allow_users.size(); ++i) {
    if (auto user = read_user(port.allow_users[i]); !user) {
      return fault(fmt::format("{}.allow_users[{}]", path, i), "{}.allow_users: {}", path,
                   user.error().message);
    }
  }
  for (std::size_t i = 0; i < port.allow_groups.size(); ++i) {
    if (auto group = read_group(port.allow_groups[i]); !group) {
      return fault(fmt::format("{}.allow_groups[{}]", path, i), "{}.allow_groups: {}", path,
                   group.error().message);
    }
  }
  if (!port.allow_cgroup.empty() && (port.allow_cgroup.front() != '/' || port.allow_cgroup.back() == '/')) {
    return fault(path + ".allow_cgroup",
                 "{}.allow_cgroup is \"{}\"; it must be a path below the root of cgroup v2, for example "
                 "\"/machine.slice/vm0.scope\"",
                 path, port.allow_cgroup);
  }
  return std::nullopt;
}

Fault check_port(const Config& config, const PortConfig& port) {
  std::string path = "port." + port.name;
  if (!valid_port_name(port.name)) {
    return fault(path, "port.\"{}\" is not a port's name; it must be 1 to {} letters, digits, - or _",
                 port.name, kMaxPortNameBytes);
  }
  if (port.name == "kernel" || port.name == "drop") {
    return fault(path, "port.{} takes the name of a port that every NIC has; choose another name", port.name);
  }
  if (const auto* tap = port.tap()) {
    if (auto wrong = check_tap(path, config, *tap)) {
      return wrong;
    }
  } else if (auto wrong = check_socket(path, *port.by_socket())) {
    return wrong;
  }
  if (auto wrong = check_macs(path, port)) {
    return wrong;
  }
  if (!port.uplink.empty() && !config.nics.contains(port.uplink)) {
    return fault(path + ".uplink", "{}.uplink: NIC {} is not configured; add a section [nic.{}]{}", path,
                 port.uplink, port.uplink, suggestion(port.uplink, keys_of(config.nics), "NICs"));
  }
  return std::nullopt;
}

// On one switch, that is one uplink and one VLAN, an address leads to one port.
class Addresses {
 public:
  Fault add(const Config& config, const PortConfig& port) {
    for (std::size_t i = 0; port.on_switch() != nullptr && i < port.mac.size(); ++i) {
      auto [other, is_new] =
          taken_.emplace(std::tuple(uplink_of(config, port).value_or(""), port.vlan, port.mac[i]), port.name);
      std::string path = fmt::format("port.{}.mac[{}]", port.name, i);
      if (!is_new && other->second == port.name) {
        return fault(path, "port.{}.mac names {} twice; once is enough", port.name, mac_text(port.mac[i]));
      }
      if (!is_new) {
        return fault(path,
                     "port.{}.mac: {} is port {}'s already; on one uplink and VLAN an address is one port's",
                     port.name, mac_text(port.mac[i]), other->second);
      }
    }
    return std::nullopt;
  }

 private:
  std::map<std::tuple<std::string, std::uint16_t, MacAddress>, std::string> taken_;
};

// What is different for a rule on what a port sends: no XDP program sees those frames.
Fault check_port_rule(const Config& config, const RuleConfig& rule, std::size_t index) {
  auto path = [index](std::string_view key) { return fmt::format("rule[{}].{}", index, key); };
  if (!rule.nic.empty()) {
    return fault(path("port"),
                 "rule has nic and port; it stands on what comes from a NIC or on what a port sends, "
                 "write two rules for both");
  }
  if (!config.ports.contains(rule.port)) {
    return fault(path("port"), "rule.port: there is no port \"{}\"{}", rule.port,
                 suggestion(rule.port, keys_of(config.ports), "ports"));
  }
  if (rule.to == "kernel" || rule.to.starts_with(kNetdevPrefix)) {
    return fault(path("to"),
                 "rule.to: {} is for packets from the wire; what a port sends goes to another port, to "
                 "\"nic:NAME\" or to "
                 "\"drop\" (a port of type \"tap\" leads into the kernel)",
                 rule.to);
  }
  if (rule.shed) {
    return fault(path("shed"), "rule.shed is for packets from the wire, which XDP drops early; leave it out");
  }
  return std::nullopt;
}

// A NIC that Sluice serves: the page itself leaves by it.
Fault check_nic_target(const Config& config, const RuleConfig& rule, const std::string& path) {
  const std::string_view nic = std::string_view(rule.to).substr(kNicPrefix.size());
  if (!config.nics.contains(std::string(nic))) {
    return fault(
        path,
        "rule.to: NIC {} is not configured; add a section [nic.{}], or write \"netdev:{}\" for a device "
        "that the kernel keeps{}",
        nic, nic, nic, suggestion(nic, keys_of(config.nics), "NICs"));
  }
  if (nic == rule.nic) {
    return fault(path, "rule.to: {} would send packets back to the NIC they came from; name another NIC",
                 rule.to);
  }
  if (rule.nic.empty() && rule.port.empty()) {
    return fault(
        path,
        "rule.to: {} of a rule without nic stands on {} too and would send its packets back; say which "
        "NIC they come from, nic = \"...\"",
        rule.to, nic);
  }
  return std::nullopt;
}

// `rule` may be one of many thousands: nothing here is slower than a look into a map.
Fault check_rule(const Config& config, const RuleConfig& rule, std::size_t index) {
  auto path = [index](std::string_view key) { return fmt::format("rule[{}].{}", index, key); };
  if (!rule.nic.empty() && !config.nics.contains(rule.nic)) {
    return fault(path("nic"), "rule.nic: NIC {} is not configured; add a section [nic.{}]{}", rule.nic,
                 rule.nic, suggestion(rule.nic, keys_of(config.nics), "NICs"));
  }
  if (auto match = parse_match(rule.match); !match) {
    return fault(path("match"), "rule.match: {}", match.error().message);
  }
  if (!rule.port.empty()) {
    if (auto wrong = check_port_rule(config, rule, index)) {
      return wrong;
    }
  }
  if (rule.to.starts_with(kNetdevPrefix)) {
    std::string_view netdev = std::string_view(rule.to).substr(kNetdevPrefix.size());
    if (!valid_netdev(netdev)) {
      return fault(path("to"), "rule.to: \"{}\" names no network device; write for example \"netdev:eth2\"",
                   rule.to);
    }
    if (netdev == rule.nic) {
      return fault(path("to"),
                   "rule.to: {} would send packets back to the NIC they came from; name another NIC",
                   rule.to);
    }
  } else if (rule.to.starts_with(kNicPrefix)) {
    if (auto wrong = check_nic_target(config, rule, path("to"))) {
      return wrong;
    }
  } else if (rule.to != "kernel" && rule.to != "drop" && !config.ports.contains(rule.to)) {
    if (config.nics.contains(rule.to)) {
      return fault(path("to"), "rule.to: \"{}\" is a NIC, not a port; write \"nic:{}\"", rule.to, rule.to);
    }
    std::vector<std::string_view> known = keys_of(config.ports);
    known.insert(known.end(), {"kernel", "drop", "nic:NAME", "netdev:NAME"});
    return fault(path("to"), "rule.to: there is no port \"{}\"{}", rule.to,
                 suggestion(rule.to, known, "targets"));
  }
  if (auto to = config.ports.find(rule.to);
      rule.shed && (to == config.ports.end() || to->second.app() == nullptr)) {
    return fault(path("shed"),
                 "rule.shed: {} has no pages to run out of; shed is for rules to a port of type \"app\"",
                 rule.to);
  }
  return std::nullopt;
}

Fault check_port_table(const Config& config) {
  std::set<std::string_view> netdevs;
  for (const RuleConfig& rule : config.rules) {
    if (rule.to.starts_with(kNetdevPrefix)) {
      netdevs.insert(rule.to);
    }
  }
  std::size_t entries = config.ports.size() + config.nics.size() + netdevs.size();
  if (std::size_t room = kMaxPorts - kFirstFreePortId; entries > room) {
    return fault("port", "{} ports, NICs and netdev targets; the port table has room for {}", entries, room);
  }
  return std::nullopt;
}

// Rules on every NIC count on each, and so do the addresses of the ports behind it: each is a rule of the
// engine's own.
Fault check_limits(const Config& config) {
  std::size_t everywhere = 0;
  std::map<std::string_view, std::size_t> rules, of_ports;
  for (std::size_t i = 0; i < config.rules.size(); ++i) {
    const RuleConfig& rule = config.rules[i];
    std::size_t count = !rule.port.empty() ? ++of_ports[rule.port]
                        : rule.nic.empty() ? ++everywhere
                                           : ++rules[rule.nic];
    if (count > kMaxRules) {
      return fault(fmt::format("rule[{}]", i), "rule {} is one too many; a {} has at most {} rules", i + 1,
                   rule.port.empty() ? "NIC" : "port", kMaxRules);
    }
  }
  for (const auto& [nic, count] : rules) {
    if (count + everywhere > kMaxRules) {
      return fault("rule", "NIC {} has {} rules; a NIC has at most {}", nic, count + everywhere, kMaxRules);
    }
  }
  std::map<std::string, std::size_t> addresses;
  for (const auto& [name, port] : config.ports) {
    if (auto uplink = uplink_of(config, port); uplink && port.on_switch() != nullptr) {
      std::size_t count = addresses[*uplink] += port.mac.size();
      if (count + everywhere + rules[*uplink] > kMaxRules) {
        return fault("port." + name + ".mac",
                     "NIC {} has {} rules, and {} addresses of ports behind it; it has room for {} together",
                     *uplink, everywhere + rules[*uplink], count, kMaxRules);
      }
    }
  }
  return check_port_table(config);
}

}  // namespace

std::optional<ConfigFault> find_config_fault(const Config& config) {
  if (auto wrong = check_daemon(config.daemon)) {
    return wrong;
  }
  for (const auto& [name, nic] : config.nics) {
    if (auto wrong = check_nic(name, nic)) {
      return wrong;
    }
  }
  std::map<QueueName, std::string> owners;
  Addresses addresses;
  std::map<std::string, std::string> sockets{{config.daemon.control, "daemon.control"}};
  std::map<std::string, std::string> netdevs;
  for (const auto& [name, port] : config.ports) {
    if (auto wrong = check_port(config, port)) {
      return wrong;
    }
    if (auto wrong = check_owned_queues(config, port, owners)) {
      return wrong;
    }
    if (auto wrong = addresses.add(config, port)) {
      return wrong;
    }
    if (const auto* tap = port.tap()) {
      auto [other, is_new] = netdevs.emplace(tap->netdev, name);
      if (!is_new) {
        return fault("port." + name + ".netdev",
                     "port.{}.netdev: {} is port {}'s already; choose another name", name, tap->netdev,
                     other->second);
      }
      continue;
    }
    auto [other, is_new] = sockets.emplace(port.by_socket()->socket, "port." + name + ".socket");
    if (!is_new) {
      return fault("port." + name + ".socket",
                   "port.{}.socket is \"{}\", as {} is; each needs a path of its own", name, other->first,
                   other->second);
    }
  }
  for (std::size_t i = 0; i < config.rules.size(); ++i) {
    if (auto wrong = check_rule(config, config.rules[i], i)) {
      return wrong;
    }
  }
  return check_limits(config);
}

Result<void> check_config(const Config& config) {
  if (auto wrong = find_config_fault(config)) {
    return std::unexpected(Error{wrong->message});
  }
  return {};
}

std::optional<std::string> uplink_of(const Config& config, const PortConfig& port) {
  if (!port.uplink.empty()) {
    return port.uplink;
  }
  std::set<std::string> candidates;
  for (const QueueName& queue : port.owned_queues()) {
    candidates.insert(queue.netdev);
  }
  if (candidates.empty() && config.nics.size() == 1) {
    return config.nics.begin()->first;
  }
  return candidates.size() == 1 ? std::optional(*candidates.begin()) : std::nullopt;
}

std::vector<RuleConfig> rules_of(const Config& config, std::string_view netdev) {
  std::vector<RuleConfig> rules;
  std::ranges::copy_if(config.rules, std::back_inserter(rules), [&](const RuleConfig& rule) {
    return rule.port.empty() && (rule.nic.empty() || rule.nic == netdev);
  });
  return rules;
}

std::vector<RuleConfig> rules_of_port(const Config& config, std::string_view port) {
  std::vector<RuleConfig> rules;
  std::ranges::copy_if(config.rules, std::back_inserter(rules),
                       [&](const RuleConfig& rule) { return rule.port == port; });
  return rules;
}

}  // namespace sluice
