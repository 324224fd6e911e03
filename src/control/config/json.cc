// Ports and rules from the JSON of the control socket, by way of the config file's reader.
#include "control/config/json.h"

#include "control/config/read.h"

namespace sluice {

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
  Places no_file("");
  return read_port(no_file, name, *table);
}

Result<RuleConfig> rule_from_json(const nlohmann::json& object) {
  auto table = toml_from_json(object);
  SLUICE_TRY(table);
  Places no_file("");
  return read_rule(no_file, "rule", *table);
}

}  // namespace sluice
