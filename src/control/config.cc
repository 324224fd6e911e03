// From TOML to Config, value by value; what concerns several values is in config_check.cc.
#include "control/config.h"

#include <fcntl.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "abi/app.h"
#include "control/config_json.h"
#include "control/config_read.h"
#include "control/table_reader.h"
#include "control/words.h"

namespace sluice {

namespace {

constexpr std::string_view kSections[] = {"daemon", "nic", "port", "rule"};
constexpr std::string_view kDaemonKeys[] = {"control",    "control_group", "log",
                                            "page_bytes", "huge_pages",    "workers"};
constexpr std::string_view kWorkerKeys[] = {"cpu", "idle", "nap_us"};
constexpr std::string_view kNicKeys[] = {"queues", "mode", "ring"};
constexpr std::string_view kPortKeys[] = {"type", "socket", "allow_users",      "pages",  "ring", "queues",
                                          "mac",  "uplink", "stall_timeout_ms", "observe"};
constexpr std::string_view kRuleKeys[] = {"nic", "match", "to", "priority", "shed"};

constexpr std::string_view kLogLevels[] = {"trace", "debug", "info", "warning", "error", "off"};
constexpr std::string_view kHugePages[] = {"auto", "never", "required"};
constexpr std::string_view kIdle[] = {"adaptive", "spin"};
constexpr std::string_view kModes[] = {"auto", "zerocopy", "copy"};

using Range = IntegerRange;
constexpr Range kPageBytes{2048, 4096,
                           Range::Kind::kPowerOfTwo};  // XDP_UMEM_REG: 2048 .. the kernel's page size
constexpr Range kNapUs{1, 1000};
constexpr Range kQueue{0, 65535};
constexpr Range kNicRing{64, 32768, Range::Kind::kPowerOfTwo};
constexpr Range kPages{64, 1048576};
constexpr Range kPortRing{64, 65536, Range::Kind::kPowerOfTwoOrZero};
constexpr Range kStallTimeoutMs{0, 3'600'000};
constexpr Range kPriority{std::numeric_limits<std::int32_t>::min(), std::numeric_limits<std::int32_t>::max()};

constexpr std::uint32_t kMaxWorkers = SLUICE_APP_MAX_LANES;     // an app has a lane for each
constexpr std::size_t kMaxConfigBytes = std::size_t{64} << 20;  // 65536 rules on a few NICs

BindMode bind_mode_of(std::string_view text) {
  return text == "zerocopy" ? BindMode::kZeroCopy : text == "copy" ? BindMode::kCopy : BindMode::kAuto;
}

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

void read_macs(TableReader& table, std::vector<MacAddress>& out) {
  const toml::node* value = table.node("mac");
  if (value == nullptr) {
    return;
  }
  auto add = [&](const toml::node& item, const std::string& key) {
    std::string text;
    table.item_text(item, key, text);
    if (auto mac = read_mac(text); mac) {
      out.push_back(*mac);
    } else {
      table.wrong(key, mac.error().message);
    }
  };
  if (const toml::array* list = value->as_array()) {
    for (std::size_t i = 0; i < list->size(); ++i) {
      add(*list->get(i), fmt::format("mac[{}]", i));
    }
  } else {
    add(*value, "mac");
  }
}

}  // namespace

std::string ConfigReader::place(std::string path) const {
  if (file_.empty()) {
    return "";
  }
  for (;;) {
    if (auto found = lines_.find(path); found != lines_.end() && found->second != 0) {
      return fmt::format("{}:{}: ", file_, found->second);
    }
    std::size_t end = path.find_last_of(".[");
    if (end == std::string::npos) {
      return fmt::format("{}:1: ", file_);
    }
    path.resize(end);
  }
}

Result<WorkerOptions> ConfigReader::read_worker(const std::string& path, const toml::table& table) {
  WorkerOptions worker;
  TableReader reader(*this, path, path, table, kWorkerKeys);
  if (table.contains("cpu")) {
    std::uint32_t cpu = 0;
    reader.integer("cpu", cpu, {0, ::sysconf(_SC_NPROCESSORS_CONF) - 1});
    worker.cpu = cpu;
  }
  std::string idle = "adaptive";
  reader.choice("idle", idle, kIdle);
  worker.idle = idle == "spin" ? WorkerOptions::Idle::kSpin : WorkerOptions::Idle::kAdaptive;
  reader.integer("nap_us", worker.nap_us, kNapUs);
  SLUICE_TRY(reader.result());
  return worker;
}

Result<void> ConfigReader::read_daemon(const toml::table& table, DaemonConfig& daemon) {
  TableReader reader(*this, "daemon", "daemon", table, kDaemonKeys);
  reader.text("control", daemon.control);
  reader.text("control_group", daemon.control_group);
  reader.choice("log", daemon.log, kLogLevels);
  reader.integer("page_bytes", daemon.page_bytes, kPageBytes);
  reader.choice("huge_pages", daemon.huge_pages, kHugePages);
  const toml::array* workers = reader.array("workers", "tables, one per worker, for example [ { cpu = 0 } ]");
  SLUICE_TRY(reader.result());
  if (workers == nullptr) {
    return {};
  }
  if (workers->empty() || workers->size() > kMaxWorkers) {
    reader.wrong("workers", fmt::format("has {} workers; it must have 1 to {}, for example [ {{ cpu = 0 }} ]",
                                        workers->size(), kMaxWorkers));
    return reader.result();
  }
  for (std::size_t i = 0; i < workers->size(); ++i) {
    const toml::node& item = *workers->get(i);
    lines_[fmt::format("daemon.workers[{}]", i)] = item.source().begin.line;
    if (!item.is_table()) {
      reader.wrong(fmt::format("workers[{}]", i),
                   fmt::format("is {}; it must be a table, for example {{ cpu = 0 }}", type_text(item)));
      return reader.result();
    }
    auto worker = read_worker(fmt::format("daemon.workers[{}]", i), *item.as_table());
    SLUICE_TRY(worker);
    worker->id = static_cast<WorkerId>(i);
    daemon.workers.push_back(*worker);
  }
  return {};
}

Result<NicConfig> ConfigReader::read_nic(const std::string& name, const toml::table& table) {
  NicConfig nic;
  nic.netdev = name;
  TableReader reader(*this, "nic." + name, "nic." + name, table, kNicKeys);
  std::string mode = "auto";
  reader.choice("mode", mode, kModes);
  nic.mode = bind_mode_of(mode);
  reader.integer("ring", nic.ring, kNicRing);
  if (const toml::node* queues = reader.node("queues")) {
    if (const toml::array* list = queues->as_array()) {
      nic.queues.emplace();
      for (std::size_t i = 0; i < list->size(); ++i) {
        std::int64_t queue = 0;
        if (reader.item_integer(*list->get(i), fmt::format("queues[{}]", i), queue, kQueue)) {
          nic.queues->push_back(static_cast<std::uint16_t>(queue));
        }
      }
    } else if (queues->value<std::string>() != "all") {
      reader.wrong("queues",
                   fmt::format("is {}; it must be \"all\" or an array of queue numbers, for example [0, 1]",
                               queues->is_string() ? "\"" + *queues->value<std::string>() + "\""
                                                   : std::string(type_text(*queues))));
    }
  }
  SLUICE_TRY(reader.result());
  return nic;
}

Result<PortConfig> ConfigReader::read_port(const std::string& name, const toml::table& table) {
  PortConfig port;
  port.name = name;
  // A file of a later version has keys that this one does not know: the type is the thing to say.
  if (auto type = table["type"].value<std::string>(); type == "guest" || type == "host") {
    lines_["port." + name + ".type"] = table["type"].node()->source().begin.line;
    return fail("{}port.{}.type \"{}\" is not supported by this version; write type = \"app\"",
                place("port." + name + ".type"), name, *type);
  }
  TableReader reader(*this, "port." + name, "port." + name, table, kPortKeys);
  reader.text("type", port.type);
  reader.text("socket", port.socket);
  reader.integer("pages", port.pages, kPages);
  reader.integer("ring", port.ring, kPortRing);
  reader.text("uplink", port.uplink);
  reader.integer("stall_timeout_ms", port.stall_timeout_ms, kStallTimeoutMs);
  reader.boolean("observe", port.observe);
  if (const toml::array* users = reader.array("allow_users", "user names or numbers")) {
    for (std::size_t i = 0; i < users->size(); ++i) {
      const toml::node& item = *users->get(i);
      std::string key = fmt::format("allow_users[{}]", i), user;
      if (auto number = item.value_exact<std::int64_t>()) {
        user = std::to_string(*number);
      } else {
        reader.item_text(item, key, user);
      }
      port.allow_users.push_back(user);
    }
  }
  if (const toml::array* queues = reader.array("queues", "NIC queues, for example [\"eth1:1\"]")) {
    for (std::size_t i = 0; i < queues->size(); ++i) {
      std::string key = fmt::format("queues[{}]", i), text;
      reader.item_text(*queues->get(i), key, text);
      if (auto queue = read_queue_name(text)) {
        port.queues.push_back(*queue);
      } else {
        reader.wrong(key, queue.error().message);
      }
    }
  }
  read_macs(reader, port.mac);
  if (!table.contains("type")) {
    reader.missing("type", "\"app\"");
  } else if (!table.contains("socket")) {
    reader.missing("socket", fmt::format("\"/run/sluice/{}.sock\"", name));
  }
  SLUICE_TRY(reader.result());
  return port;
}

Result<RuleConfig> ConfigReader::read_rule(const std::string& path, const toml::table& table) {
  RuleConfig rule;
  TableReader reader(*this, path, "rule", table, kRuleKeys);
  reader.text("nic", rule.nic);
  reader.text("match", rule.match);
  reader.text("to", rule.to);
  reader.integer("priority", rule.priority, kPriority);
  reader.boolean("shed", rule.shed);
  if (!table.contains("match")) {
    reader.missing("match", "\"ip_proto udp dst_port 53\"");
  } else if (!table.contains("to")) {
    reader.missing("to", "\"kernel\"");
  }
  SLUICE_TRY(reader.result());
  return rule;
}

Result<void> ConfigReader::read_sections(const toml::table& root, Config& config) {
  for (std::string_view section : {"nic", "port"}) {
    const toml::node* node = root.get(section);
    if (node == nullptr) {
      continue;
    }
    lines_[std::string(section)] = node->source().begin.line;
    if (!node->is_table()) {
      return fail("{}{} is {}; write a section for each, for example [{}.{}]", place(std::string(section)),
                  section, type_text(*node), section, section == "nic" ? "eth1" : "dns");
    }
    for (const auto& [key, value] : *node->as_table()) {
      std::string name(key.str());
      std::string path = fmt::format("{}.{}", section, name);
      lines_[path] = key.source().begin.line;
      if (!value.is_table()) {
        return fail("{}{} is {}; it must be a section, [{}]", place(path), path, type_text(value), path);
      }
      if (section == "nic") {
        auto nic = read_nic(name, *value.as_table());
        SLUICE_TRY(nic);
        config.nics.emplace(name, std::move(*nic));
      } else {
        auto port = read_port(name, *value.as_table());
        SLUICE_TRY(port);
        config.ports.emplace(name, std::move(*port));
      }
    }
  }
  return {};
}

Result<Config> ConfigReader::read(const toml::table& root) {
  Config config;
  for (const auto& [key, value] : root) {
    lines_[std::string(key.str())] = key.source().begin.line;
    if (std::ranges::find(kSections, key.str()) == std::end(kSections)) {
      return fail("{}{} is not a section that Sluice knows{}", place(std::string(key.str())), key.str(),
                  suggestion(key.str(), kSections, "sections"));
    }
  }
  if (const toml::node* daemon = root.get("daemon")) {
    if (!daemon->is_table()) {
      return fail("{}daemon is {}; it must be a section, [daemon]", place("daemon"), type_text(*daemon));
    }
    SLUICE_TRY(read_daemon(*daemon->as_table(), config.daemon));
  }
  if (config.daemon.workers.empty()) {
    config.daemon.workers.emplace_back();
  }
  SLUICE_TRY(read_sections(root, config));
  if (const toml::node* rules = root.get("rule")) {
    const toml::array* list = rules->as_array();
    if (list == nullptr || (!list->empty() && !list->is_homogeneous<toml::table>())) {
      return fail("{}rule is {}; write [[rule]] in front of each rule", place("rule"), type_text(*rules));
    }
    for (std::size_t i = 0; i < list->size(); ++i) {
      auto rule = read_rule(fmt::format("rule[{}]", i), *list->get(i)->as_table());
      SLUICE_TRY(rule);
      config.rules.push_back(std::move(*rule));
    }
  }
  if (auto fault = find_config_fault(config)) {
    return fail("{}{}", place(fault->path), fault->message);
  }
  return config;
}

Result<Config> parse_config(std::string_view text, std::string_view file_name) {
  std::string file(file_name.empty() ? "config" : file_name);
  try {
    toml::table root = toml::parse(text, file);
    return ConfigReader(file).read(root);
  } catch (const toml::parse_error& error) {
    return fail("{}:{}: not TOML: {}; see https://toml.io", file, error.source().begin.line,
                error.description());
  }
}

Result<Config> load_config(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  ssize_t got = file ? 1 : -1;
  while (got > 0 && text.size() <= kMaxConfigBytes) {
    char chunk[65536];
    got = ::read(file.get(), chunk, sizeof(chunk));
    text.append(chunk, got > 0 ? static_cast<std::size_t>(got) : 0);
  }
  if (got < 0) {
    return fail_errno(errno, "cannot read the config file {}", path);
  }
  if (text.size() > kMaxConfigBytes) {
    return fail("{}:1: the file is longer than {} MiB; is it the config file?", path, kMaxConfigBytes >> 20);
  }
  return parse_config(text, path);
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
