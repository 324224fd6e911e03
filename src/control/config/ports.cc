// Ports and rules: from TOML to Config, and from the JSON of the control socket by the same way.
#include <nlohmann/json.hpp>

#include "control/config/did_you_mean.h"
#include "control/config/json.h"
#include "control/config/read.h"
#include "control/config/table_reader.h"
#include "port/guest/virtio/ring/vring.h"

namespace sluice {

namespace {

constexpr std::string_view kTypes[] = {"app", "guest", "host"};
constexpr std::string_view kAppKeys[] = {"type",
                                         "socket",
                                         "allow_users",
                                         "allow_groups",
                                         "allow_cgroup",
                                         "pages",
                                         "ring",
                                         "queues",
                                         "mac",
                                         "vlan",
                                         "uplink",
                                         "trust",
                                         "source_ip",
                                         "frame_rate",
                                         "broadcast_rate",
                                         "attach_rate",
                                         "stall_timeout_ms",
                                         "stall_budget_us",
                                         "stall_window_ms",
                                         "observe"};
constexpr std::string_view kGuestKeys[] = {
    "type",         "socket",      "role",           "allow_users",     "allow_groups",
    "allow_cgroup", "mac",         "vlan",           "uplink",          "mode",
    "trust",        "queue_pairs", "memory",         "populate",        "sealed_memory",
    "source_ip",    "frame_rate",  "broadcast_rate", "stall_budget_us", "stall_window_ms"};
constexpr std::string_view kHostKeys[] = {"type",      "netdev",     "mac",           "address",
                                          "mtu",       "vlan",       "uplink",        "mode",
                                          "source_ip", "frame_rate", "broadcast_rate"};
constexpr std::string_view kRuleKeys[] = {"nic", "port", "match", "to", "priority", "shed"};
constexpr std::string_view kRoles[] = {"server", "client"};
constexpr std::string_view kSwitchModes[] = {"bridge", "vepa", "private"};

using Range = IntegerRange;
constexpr Range kPages{64, 1048576};
constexpr Range kPortRing{64, 65536, Range::Kind::kPowerOfTwoOrZero};
constexpr Range kAttachRate{0, 1'000};
constexpr Range kStallTimeoutMs{0, 3'600'000};
constexpr Range kRate{0, 1'000'000'000};
constexpr Range kStallBudgetUs{0, 10'000'000};
constexpr Range kStallWindowMs{100, 60'000};
constexpr Range kVlan{0, 4094};  // IEEE 802.1Q: 4095 is reserved; 0 is no VLAN
constexpr Range kQueuePairs{1, kMaxQueuePairs};
constexpr Range kMtu{68, 65521};  // drivers/net/tun.c: MIN_MTU, MAX_MTU less an Ethernet header
constexpr Range kPriority{std::numeric_limits<std::int32_t>::min(), std::numeric_limits<std::int32_t>::max()};

// "eth1:1"; the last colon counts, as aliases have colons of their own.
Result<QueueName> read_queue_name(const std::string& text) {
  std::size_t colon = text.rfind(':');
  std::string digits = colon == std::string::npos ? "" : text.substr(colon + 1);
  bool number =
      !digits.empty() && digits.size() <= 5 && digits.find_first_not_of("0123456789") == std::string::npos;
  if (colon == 0 || !number || std::stoul(digits) > 65535) {
    return fail("is \"{}\"; it must be NIC:QUEUE, for example \"eth1:1\"", text);
  }
  return QueueName{text.substr(0, colon), static_cast<std::uint16_t>(std::stoul(digits))};
}

// One string, or an array of them; calls `add` with each and its key, "mac" or "mac[1]".
template <typename Add>
void for_each_text(TableReader& table, std::string_view key, Add add) {
  const toml::node* value = table.node(key);
  if (value == nullptr) {
    return;
  }
  auto take = [&](const toml::node& item, const std::string& item_key) {
    std::string text;
    table.item_text(item, item_key, text);
    add(text, item_key);
  };
  if (const toml::array* list = value->as_array()) {
    for (std::size_t i = 0; i < list->size(); ++i) {
      take(*list->get(i), fmt::format("{}[{}]", key, i));
    }
  } else {
    take(*value, std::string(key));
  }
}

void read_macs(TableReader& table, std::vector<MacAddress>& out) {
  for_each_text(table, "mac", [&](const std::string& text, const std::string& key) {
    if (auto mac = read_mac(text); mac) {
      out.push_back(*mac);
    } else {
      table.wrong(key, mac.error().message);
    }
  });
}

// An array of names or numbers, such as users.
void read_names(TableReader& table, std::string_view key, std::string_view of_what,
                std::vector<std::string>& out) {
  const toml::array* names = table.array(key, of_what);
  for (std::size_t i = 0; names != nullptr && i < names->size(); ++i) {
    const toml::node& item = *names->get(i);
    std::string name;
    if (auto number = item.value_exact<std::int64_t>()) {
      name = std::to_string(*number);
    } else {
      table.item_text(item, fmt::format("{}[{}]", key, i), name);
    }
    out.push_back(name);
  }
}

void read_who_may_attach(TableReader& table, PortConfig& port) {
  read_names(table, "allow_users", "user names or numbers", port.allow_users);
  read_names(table, "allow_groups", "group names or numbers", port.allow_groups);
  table.text("allow_cgroup", port.allow_cgroup);
}

void read_stall_keys(TableReader& table, PortConfig& port) {
  table.integer("stall_budget_us", port.stall_budget_us, kStallBudgetUs);
  table.integer("stall_window_ms", port.stall_window_ms, kStallWindowMs);
}

// What it may send, whatever its type.
void read_send_keys(TableReader& table, PortConfig& port) {
  for_each_text(table, "source_ip", [&](const std::string& text, const std::string& key) {
    if (is_address_or_cidr(text)) {
      port.source_ip.push_back(text);
    } else {
      table.wrong(key, fmt::format("is \"{}\"; it must be an address or a prefix, for example "
                                   "\"192.0.2.5\" or \"2001:db8::/64\"",
                                   text));
    }
  });
  table.integer("frame_rate", port.frame_rate, kRate);
  table.integer("broadcast_rate", port.broadcast_rate, kRate);
}

void read_memory_size(TableReader& table, PortConfig& port) {
  std::string text;
  table.text("memory", text);
  if (text.empty()) {
    return;
  }
  if (auto bytes = read_size(text)) {
    port.memory_bytes = *bytes;
  } else {
    table.wrong("memory", bytes.error().message);
  }
}

void read_owned_queues(TableReader& table, std::vector<QueueName>& out) {
  const toml::array* queues = table.array("queues", "NIC queues, for example [\"eth1:1\"]");
  for (std::size_t i = 0; queues != nullptr && i < queues->size(); ++i) {
    std::string key = fmt::format("queues[{}]", i), text;
    table.item_text(*queues->get(i), key, text);
    if (auto queue = read_queue_name(text)) {
      out.push_back(*queue);
    } else {
      table.wrong(key, queue.error().message);
    }
  }
}

void read_switch_keys(TableReader& table, PortConfig& port) {
  std::string mode = "bridge";
  table.choice("mode", mode, kSwitchModes);
  port.mode = mode == "vepa"      ? SwitchMode::kVepa
              : mode == "private" ? SwitchMode::kPrivate
                                  : SwitchMode::kBridge;
}

void read_app(TableReader& table, PortConfig& port) {
  table.text("socket", port.socket);
  table.integer("pages", port.pages, kPages);
  table.integer("ring", port.ring, kPortRing);
  table.integer("attach_rate", port.attach_rate, kAttachRate);
  table.integer("stall_timeout_ms", port.stall_timeout_ms, kStallTimeoutMs);
  table.boolean("observe", port.observe);
  table.boolean("trust", port.trust);
  read_who_may_attach(table, port);
  read_stall_keys(table, port);
  read_owned_queues(table, port.queues);
  table.need("socket", fmt::format("\"/run/sluice/{}.sock\"", port.name));
}

void read_guest(TableReader& table, PortConfig& port) {
  table.text("socket", port.socket);
  std::string role = "server";
  table.choice("role", role, kRoles);
  port.role = role == "client" ? GuestPortOptions::Role::kClient : GuestPortOptions::Role::kServer;
  read_who_may_attach(table, port);
  read_stall_keys(table, port);
  read_memory_size(table, port);
  table.boolean("populate", port.populate);
  table.boolean("sealed_memory", port.sealed_memory);
  table.boolean("trust", port.trust);
  table.integer("queue_pairs", port.queue_pairs, kQueuePairs);
  read_switch_keys(table, port);
  table.need("socket", fmt::format("\"/run/sluice/{}.sock\"", port.name));
  table.need("mac", "\"52:54:00:00:00:01\"");
}

void read_host(TableReader& table, PortConfig& port) {
  table.text("netdev", port.netdev);
  table.integer("mtu", port.mtu, kMtu);
  for_each_text(table, "address", [&](const std::string& text, const std::string& key) {
    if (is_cidr(text)) {
      port.address.push_back(text);
    } else {
      table.wrong(key, fmt::format("is \"{}\"; it must be an address with its prefix, for example "
                                   "\"192.0.2.1/24\"",
                                   text));
    }
  });
  read_switch_keys(table, port);
  table.need("netdev", "\"sluice0\"");
  table.need("mac", "\"52:54:00:00:00:01\"");
}

std::span<const std::string_view> keys_of_type(std::string_view type) {
  return type == "guest"  ? std::span<const std::string_view>(kGuestKeys)
         : type == "host" ? std::span<const std::string_view>(kHostKeys)
                          : std::span<const std::string_view>(kAppKeys);
}

}  // namespace

std::vector<std::string_view> port_keys() {
  std::vector<std::string_view> keys;
  for (std::string_view type : kTypes) {
    for (std::string_view key : keys_of_type(type)) {
      if (std::ranges::find(keys, key) == keys.end()) {
        keys.push_back(key);
      }
    }
  }
  return keys;
}

Result<PortConfig> ConfigReader::read_port(const std::string& name, const toml::table& table) {
  PortConfig port;
  port.name = name;
  const std::string type = table["type"].value<std::string>().value_or("");
  const std::string path = "port." + name;
  // The type decides which keys there are, so it is looked at first.
  TableReader reader(*this, path, path, table);
  reader.need("type", "\"app\"");
  reader.text("type", port.type);
  if (reader.ok() && std::ranges::find(kTypes, port.type) == std::end(kTypes)) {
    reader.wrong("type",
                 fmt::format("\"{}\" is not a type that Sluice knows; write type = \"app\", \"guest\" "
                             "or \"host\"",
                             port.type));
  }
  if (type == "guest" && table.contains("queues")) {
    reader.wrong("queues",
                 "are for apps: a guest that owns a queue is for a later version; leave the key out, "
                 "and it shares the queues of its uplink");
  }
  reader.only(keys_of_type(type), type, {kAppKeys, kGuestKeys, kHostKeys});
  reader.text("uplink", port.uplink);
  read_macs(reader, port.mac);
  reader.integer("vlan", port.vlan, kVlan);
  read_send_keys(reader, port);
  if (type == "guest") {
    read_guest(reader, port);
  } else if (type == "host") {
    read_host(reader, port);
  } else {
    read_app(reader, port);
  }
  SLUICE_TRY(reader.result());
  return port;
}

Result<RuleConfig> ConfigReader::read_rule(const std::string& path, const toml::table& table) {
  RuleConfig rule;
  TableReader reader(*this, path, "rule", table);
  reader.only(kRuleKeys);
  reader.text("nic", rule.nic);
  reader.text("port", rule.port);
  reader.text("match", rule.match);
  reader.text("to", rule.to);
  reader.integer("priority", rule.priority, kPriority);
  reader.boolean("shed", rule.shed);
  reader.need("match", "\"ip_proto udp dst_port 53\"");
  reader.need("to", "\"kernel\"");
  SLUICE_TRY(reader.result());
  return rule;
}

namespace {

// JSON's values are TOML's, but for null; numbers beyond 64 bits and nested tables do not occur in ports and
// rules.
Result<toml::table> toml_from_json(const nlohmann::json& object) {
  if (!object.is_object()) {
    return fail("the parameters are not an object; write names and values");
  }
  toml::table table;
  auto put = [](auto&& insert, const nlohmann::json& value) {
    if (value.is_string()) {
      insert(value.get_ref<const std::string&>());
    } else if (value.is_boolean()) {
      insert(value.get<bool>());
    } else if (value.is_number_integer()) {
      insert(value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX
                 ? INT64_MAX
                 : value.get<std::int64_t>());
    } else {
      insert(0.5);  // what no key takes: the reader says what it wants
    }
  };
  for (const auto& [key, value] : object.items()) {
    if (value.is_null()) {
      continue;
    }
    if (value.is_array()) {
      toml::array list;
      for (const auto& item : value) {
        put([&](auto&& v) { list.push_back(v); }, item);
      }
      table.insert_or_assign(key, std::move(list));
    } else {
      put([&, &name = key](auto&& v) { table.insert_or_assign(name, v); }, value);
    }
  }
  return table;
}

}  // namespace

Result<PortConfig> port_from_json(const std::string& name, const nlohmann::json& object) {
  auto table = toml_from_json(object);
  SLUICE_TRY(table);
  return ConfigReader("").read_port(name, *table);
}

Result<RuleConfig> rule_from_json(const nlohmann::json& object) {
  auto table = toml_from_json(object);
  SLUICE_TRY(table);
  return ConfigReader("").read_rule("rule", *table);
}

}  // namespace sluice
