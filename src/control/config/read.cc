// From TOML to Config, section by section. The keys: keys.cc; what concerns several values: check.cc.
#include "control/config/read.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/fd.h"
#include "control/config/did_you_mean.h"

namespace sluice {

namespace {

constexpr std::string_view kSections[] = {"daemon", "nic", "port", "rule"};
constexpr std::size_t kMaxConfigBytes = std::size_t{64} << 20;  // 65536 rules on a few NICs

template <typename Section>
Result<Section> read_section(Places& places, const std::string& path, const std::string& subject,
                             const toml::table& table, Section section = {}) {
  TableReader reader(places, path, subject, table);
  reader.read(section);
  SLUICE_TRY(reader.result());
  return section;
}

Result<NicConfig> read_nic(Places& places, const std::string& name, const toml::table& table) {
  return read_section<NicConfig>(places, "nic." + name, "nic." + name, table, {.netdev = name});
}

// [nic.eth1], [nic.eth2] ...
template <typename Section>
Result<void> read_named(Places& places, const toml::table& root, std::string_view section,
                        std::string_view example,
                        Result<Section> (*read)(Places&, const std::string&, const toml::table&),
                        std::map<std::string, Section>& out) {
  const toml::node* node = root.get(section);
  if (node == nullptr) {
    return {};
  }
  if (!node->is_table()) {
    return fail("{}{} is {}; write a section for each, for example [{}.{}]", places.of(std::string(section)),
                section, type_text(*node), section, example);
  }
  for (const auto& [key, value] : *node->as_table()) {
    std::string name(key.str());
    std::string path = fmt::format("{}.{}", section, name);
    places.note(path, key.source().begin);
    if (!value.is_table()) {
      return fail("{}{} is {}; it must be a section, [{}]", places.of(path), path, type_text(value), path);
    }
    auto one = read(places, name, *value.as_table());
    SLUICE_TRY(one);
    out.emplace(name, std::move(*one));
  }
  return {};
}

Result<void> read_rules(Places& places, const toml::table& root, std::vector<RuleConfig>& out) {
  const toml::node* rules = root.get("rule");
  if (rules == nullptr) {
    return {};
  }
  const toml::array* list = rules->as_array();
  if (list == nullptr || (!list->empty() && !list->is_homogeneous<toml::table>())) {
    return fail("{}rule is {}; write [[rule]] in front of each rule", places.of("rule"), type_text(*rules));
  }
  for (std::size_t i = 0; i < list->size(); ++i) {
    auto rule = read_rule(places, fmt::format("rule[{}]", i), *list->get(i)->as_table());
    SLUICE_TRY(rule);
    out.push_back(std::move(*rule));
  }
  return {};
}

Result<Config> read_config(Places& places, const toml::table& root) {
  Config config;
  for (const auto& [key, value] : root) {
    places.note(std::string(key.str()), key.source().begin);
    if (std::ranges::find(kSections, key.str()) == std::end(kSections)) {
      return fail("{}{} is not a section that Sluice knows{}", places.of(std::string(key.str())), key.str(),
                  suggestion(key.str(), kSections, "sections"));
    }
  }
  if (const toml::node* daemon = root.get("daemon")) {
    if (!daemon->is_table()) {
      return fail("{}daemon is {}; it must be a section, [daemon]", places.of("daemon"), type_text(*daemon));
    }
    auto read = read_section<DaemonConfig>(places, "daemon", "daemon", *daemon->as_table());
    SLUICE_TRY(read);
    config.daemon = std::move(*read);
  }
  if (config.daemon.workers.empty()) {
    config.daemon.workers.emplace_back();
  }
  SLUICE_TRY(read_named(places, root, "nic", "eth1", read_nic, config.nics));
  SLUICE_TRY(read_named(places, root, "port", "dns", read_port, config.ports));
  SLUICE_TRY(read_rules(places, root, config.rules));
  if (auto fault = find_config_fault(config)) {
    return fail("{}{}", places.of(fault->path), fault->message);
  }
  return config;
}

// What a port of this type may not have: the key of another type is named as such.
void only_keys_of(const PortConfig& port, const toml::table& table, TableReader& reader) {
  const std::vector<std::string_view> known = key_names<PortConfig>(types_of(port));
  const std::vector<std::string_view> of_any = key_names<PortConfig>();
  for (const auto& [key, value] : table) {
    if (std::ranges::find(known, key.str()) == known.end() &&
        std::ranges::find(of_any, key.str()) != of_any.end()) {
      reader.wrong(key.str(), fmt::format("is not a key of a port of type \"{}\"; its keys: {}", port.type(),
                                          join(known, ", ")));
    }
  }
  reader.only(known);
}

}  // namespace

Result<PortConfig> read_port(Places& places, const std::string& name, const toml::table& table) {
  PortConfig port;
  port.name = name;
  const std::string path = "port." + name;
  // The type decides which keys there are, so it is looked at first.
  TableReader reader(places, path, path, table);
  reader.need(keys<PortConfig>().front().key);
  std::string type;
  reader.text("type", type);
  if (type == "guest") {
    port.of_type = GuestConfig{};
  } else if (type == "tap" || type == "host") {
    port.of_type = TapConfig{};
    port.earlier_name.used = type == "host";
  } else if (type != "app") {
    reader.wrong("type",
                 fmt::format("\"{}\" is not a type that Sluice knows; write type = \"app\", \"guest\" "
                             "or \"tap\"",
                             type));
  }
  if (type == "guest" && table.contains("queues")) {
    reader.wrong("queues",
                 "are for apps: a guest that owns a queue is for a later version; leave the key out, "
                 "and it shares the queues of its uplink");
  }
  only_keys_of(port, table, reader);
  reader.read(port, types_of(port));
  SLUICE_TRY(reader.result());
  return port;
}

Result<RuleConfig> read_rule(Places& places, const std::string& path, const toml::table& table) {
  return read_section<RuleConfig>(places, path, "rule", table);
}

Result<Config> parse_config(std::string_view text, std::string_view file_name) {
  std::string file(file_name.empty() ? "config" : file_name);
  try {
    Places places(file);
    return read_config(places, toml::parse(text, file));
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

}  // namespace sluice
