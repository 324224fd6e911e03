#include "control/config/table_reader.h"

#include <algorithm>
#include <bit>

#include "control/config/did_you_mean.h"

namespace sluice {

std::string_view type_text(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "an array";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a fraction";
    case toml::node_type::boolean:
      return "a boolean";
    default:
      return "a date or time";
  }
}

namespace {

std::string range_text(IntegerRange range) {
  if (range.kind == IntegerRange::Kind::kAny) {
    return fmt::format("a number from {} to {}", range.low, range.high);
  }
  return fmt::format("{}a power of two from {} to {}",
                     range.kind == IntegerRange::Kind::kPowerOfTwoOrZero ? "0 or " : "", range.low,
                     range.high);
}

bool in_range(std::int64_t value, IntegerRange range) {
  if (range.kind == IntegerRange::Kind::kPowerOfTwoOrZero && value == 0) {
    return true;
  }
  bool shape = range.kind == IntegerRange::Kind::kAny ||
               (value > 0 && std::has_single_bit(static_cast<std::uint64_t>(value)));
  return shape && value >= range.low && value <= range.high;
}

}  // namespace

TableReader::TableReader(ConfigReader& reader, std::string path, std::string subject,
                         const toml::table& table)
    : reader_(reader), path_(std::move(path)), subject_(std::move(subject)), table_(table) {
  reader_.lines_[path_] = table.source().begin.line;
  for (const auto& [key, value] : table) {
    reader_.lines_[path_ + "." + std::string(key.str())] = key.source().begin.line;
  }
}

TableReader::TableReader(ConfigReader& reader, std::string path, std::string subject,
                         const toml::table& table, std::span<const std::string_view> known_keys)
    : TableReader(reader, std::move(path), std::move(subject), table) {
  only(known_keys);
}

void TableReader::only(std::span<const std::string_view> known_keys, std::string_view kind,
                       std::initializer_list<std::span<const std::string_view>> of_any_kind) {
  auto has = [](std::span<const std::string_view> keys, std::string_view key) {
    return std::ranges::find(keys, key) != keys.end();
  };
  for (const auto& [key, value] : table_) {
    if (has(known_keys, key.str())) {
      continue;
    }
    bool elsewhere = std::ranges::any_of(of_any_kind, [&](auto keys) { return has(keys, key.str()); });
    if (elsewhere) {
      wrong(key.str(),
            fmt::format("is not a key of a port of type \"{}\"; its keys: {}", kind, join(known_keys, ", ")));
    } else {
      wrong(key.str(), "is not a key that Sluice knows" + suggestion(key.str(), known_keys, "keys"));
    }
  }
}

void TableReader::need(std::string_view key, std::string_view example) {
  if (!table_.contains(key)) {
    missing(key, example);
  }
}

void TableReader::wrong(std::string_view key, const std::string& message) {
  if (!failed_) {
    failed_ = true;
    error_.message =
        fmt::format("{}{}.{} {}", reader_.place(path_ + "." + std::string(key)), subject_, key, message);
  }
}

void TableReader::missing(std::string_view key, std::string_view example) {
  if (!failed_) {
    failed_ = true;
    error_.message = fmt::format("{}{} has no {}; write for example {} = {}", reader_.place(path_), subject_,
                                 key, key, example);
  }
}

Result<void> TableReader::result() const {
  if (failed_) {
    return std::unexpected(error_);
  }
  return {};
}

const toml::node* TableReader::node(std::string_view key) {
  return failed_ ? nullptr : table_.get(key);
}

const toml::array* TableReader::array(std::string_view key, std::string_view of_what) {
  const toml::node* value = node(key);
  if (value == nullptr) {
    return nullptr;
  }
  if (!value->is_array()) {
    wrong(key, fmt::format("is {}; it must be an array of {}", type_text(*value), of_what));
    return nullptr;
  }
  return value->as_array();
}

void TableReader::text(std::string_view key, std::string& out) {
  if (const toml::node* value = node(key)) {
    item_text(*value, std::string(key), out);
  }
}

void TableReader::item_text(const toml::node& item, const std::string& key, std::string& out) {
  if (auto line = item.source().begin.line; line != 0) {
    reader_.lines_[path_ + "." + key] = line;
  }
  if (!item.is_string()) {
    wrong(key, fmt::format("is {}; it must be a string", type_text(item)));
    return;
  }
  out = item.as_string()->get();
}

void TableReader::choice(std::string_view key, std::string& out, std::span<const std::string_view> choices) {
  std::string value = out;
  text(key, value);
  if (ok() && value != out && std::ranges::find(choices, value) == choices.end()) {
    wrong(key, fmt::format("is \"{}\"; it must be one of {}", value, join(choices, ", ")));
  } else if (ok()) {
    out = value;
  }
}

void TableReader::boolean(std::string_view key, bool& out) {
  const toml::node* value = node(key);
  if (value == nullptr) {
    return;
  }
  if (!value->is_boolean()) {
    wrong(key, fmt::format("is {}; it must be true or false", type_text(*value)));
    return;
  }
  out = value->as_boolean()->get();
}

bool TableReader::read_integer(std::string_view key, std::int64_t& out, IntegerRange range) {
  const toml::node* value = node(key);
  return value != nullptr && item_integer(*value, std::string(key), out, range);
}

bool TableReader::item_integer(const toml::node& item, const std::string& key, std::int64_t& out,
                               IntegerRange range) {
  if (auto line = item.source().begin.line; line != 0) {
    reader_.lines_[path_ + "." + key] = line;
  }
  if (!item.is_integer()) {
    wrong(key, fmt::format("is {}; it must be {}", type_text(item), range_text(range)));
    return false;
  }
  out = item.as_integer()->get();
  if (!in_range(out, range)) {
    wrong(key, fmt::format("is {}; it must be {}", out, range_text(range)));
    return false;
  }
  return true;
}

}  // namespace sluice
