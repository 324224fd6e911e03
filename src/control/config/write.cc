// Config to TOML. By hand rather than through toml++: the order is that of the table of keys, and a rule is a
// paragraph.
#include "control/config/key_text.h"

namespace sluice {

namespace {

// A key, bare where TOML allows it.
std::string key_text(std::string_view name) {
  bool bare = !name.empty() &&
              name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") ==
                  std::string_view::npos;
  return bare ? std::string(name) : quoted(name);
}

// The keys of one section that have not their default.
template <typename Section>
void put(std::string& out, Section section, Section by_default, PortTypes type = kEveryType) {
  for (const auto& [key, field] : keys<Section>()) {
    const std::string value = toml_value(key, field(section));
    const bool wanted = key.always_written || (key.required & type) != 0;
    if ((key.of & type) != 0 && key.now_called.empty() && !value.empty() &&
        (wanted || value != toml_value(key, field(by_default)))) {
      out += fmt::format("{} = {}\n", key.name, value);
    }
  }
}

PortConfig default_port(const PortConfig& port) {
  PortConfig by_default;
  std::visit([&]<typename T>(const T&) { by_default.of_type = T{}; }, port.of_type);
  return by_default;
}

}  // namespace

std::string to_toml(const Config& config) {
  std::string out = "[daemon]\n";
  put(out, config.daemon, {});
  for (const auto& [name, nic] : config.nics) {
    out += fmt::format("\n[nic.{}]\n", key_text(name));
    put(out, nic, {});
  }
  for (const auto& [name, port] : config.ports) {
    out += fmt::format("\n[port.{}]\ntype = \"{}\"\n", key_text(name), port.type());
    put(out, port, default_port(port), types_of(port));
  }
  for (const RuleConfig& rule : config.rules) {
    out += "\n[[rule]]\n";
    put(out, rule, {});
  }
  return out;
}

}  // namespace sluice
