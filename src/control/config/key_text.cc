#include "control/config/key_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace sluice {

namespace {

template <typename List, typename Text>
std::string list_text(const List& list, Text text) {
  std::string items;
  for (const auto& item : list) {
    items += (items.empty() ? "" : ", ") + text(item);
  }
  return list.empty() ? "" : "[" + items + "]";
}

std::string worker_text(WorkerConfig worker) {
  std::string items;
  WorkerConfig by_default;
  for (const auto& [key, field] : keys<WorkerConfig>()) {
    const std::string value = toml_value(key, field(worker));
    if (key.now_called.empty() && value != toml_value(key, field(by_default))) {
      items += fmt::format("{}{} = {}", items.empty() ? "" : ", ", key.name, value);
    }
  }
  return items.empty() ? "{}" : "{ " + items + " }";
}

struct TomlValue {
  const Key& key;

  std::string operator()(std::monostate) const { return ""; }
  std::string operator()(const std::string* text) const { return quoted(*text); }
  std::string operator()(const std::uint64_t* bytes) const { return quoted(size_text(*bytes)); }
  std::string operator()(const std::optional<std::uint32_t>* number) const {
    return *number ? fmt::format("{}", **number) : "";
  }
  std::string operator()(const std::vector<std::string>* texts) const { return list_text(*texts, quoted); }
  std::string operator()(const std::vector<MacAddress>* macs) const {
    return list_text(*macs, [](const MacAddress& mac) { return quoted(mac_text(mac)); });
  }
  std::string operator()(const std::vector<QueueName>* queues) const {
    return list_text(*queues,
                     [](const QueueName& q) { return quoted(fmt::format("{}:{}", q.netdev, q.queue)); });
  }
  std::string operator()(const std::optional<std::vector<std::uint16_t>>* queues) const {
    return *queues ? fmt::format("[{}]", fmt::join(**queues, ", ")) : quoted("all");
  }
  std::string operator()(const std::vector<WorkerConfig>* workers) const {
    return list_text(*workers, worker_text);
  }
  template <typename T>
  std::string operator()(const T* value) const {
    if constexpr (std::is_enum_v<T>) {
      return quoted(key.words[static_cast<std::size_t>(*value)]);
    } else {
      return fmt::format("{}", *value);
    }
  }
};

}  // namespace

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\u{:04x}", byte);
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string toml_value(const Key& key, const Field& field) {
  return std::visit(TomlValue{key}, field);
}

namespace {

constexpr std::int64_t kLowest = std::numeric_limits<std::int32_t>::min();

// What stands in the column `value`, and how it is taken from words.
struct Described {
  const Key& key;

  struct Text {
    ValueKind kind;
    std::string value;
  };
  Text operator()(std::monostate) const { return {ValueKind::kText, words()}; }
  Text operator()(const bool*) const { return {ValueKind::kBoolean, "boolean"}; }
  Text operator()(const std::string*) const {
    return {ValueKind::kText, key.words.empty() ? "string" : words()};
  }
  Text operator()(const std::uint64_t*) const {
    return {ValueKind::kText, "size, `\"1MiB\"` to `\"64TiB\"`"};
  }
  Text operator()(const std::vector<std::string>*) const {
    return {ValueKind::kList,
            key.good != nullptr ? "string or array of strings" : fmt::format("array of {}", key.elements)};
  }
  Text operator()(const std::vector<MacAddress>*) const {
    return {ValueKind::kList, "string or array of strings"};
  }
  Text operator()(const std::vector<QueueName>*) const {
    return {ValueKind::kList, "array of `\"NIC:QUEUE\"`"};
  }
  Text operator()(const std::optional<std::vector<std::uint16_t>>*) const {
    return {ValueKind::kList, "`\"all\"` or array of integers"};
  }
  Text operator()(const std::vector<WorkerConfig>*) const { return {ValueKind::kList, "array of tables"}; }
  template <typename T>
  Text operator()(const T*) const {
    if constexpr (std::is_enum_v<T>) {
      return {ValueKind::kText, words()};
    }
    return {ValueKind::kInteger, integer()};
  }

  std::string words() const {
    std::string text;
    for (std::string_view word : key.words) {
      text += fmt::format("{}`\"{}\"`", text.empty() ? "" : word == key.words.back() ? " or " : ", ", word);
    }
    return text;
  }
  std::string integer() const {
    using Kind = IntegerRange::Kind;
    if (key.range.kind == Kind::kCpu || key.range.low == kLowest) {
      return "integer";
    }
    return fmt::format("{}{}{}",
                       key.range.kind == Kind::kAny
                           ? fmt::format("integer, {} to {}", key.range.low, key.range.high)
                           : range_text(key.range),
                       key.unit.empty() ? "" : " ", key.unit);
  }
};

std::string default_text(const Key& key, const Field& field) {
  const std::string value =
      key.by_default.empty() ? fmt::format("`{}`", toml_value(key, field)) : std::string(key.by_default);
  if ((key.required & key.of) == 0) {
    return value;
  }
  return key.required == key.of ? "must be given" : fmt::format("must be given; app: {}", value);
}

template <typename Section>
std::vector<KeyText> describe(Section (*with)(PortTypes)) {
  std::vector<KeyText> texts;
  for (const auto& [key, field] : keys<Section>()) {
    if (key.now_called.empty()) {
      Section section = with(key.of);
      const Field at = field(section);
      auto [kind, value] = std::visit(Described{key}, at);
      texts.push_back({key, kind, std::move(value), default_text(key, at)});
    }
  }
  return texts;
}

template <typename Section>
Section plain(PortTypes) {
  return {};
}

// A port of one of these types.
PortConfig port_of(PortTypes types) {
  PortConfig port;
  if ((types & kApp) == 0) {
    port.of_type = GuestConfig{};
  }
  if ((types & (kApp | kGuest)) == 0) {
    port.of_type = TapConfig{};
  }
  return port;
}

// The keys of a table: those that all of `of` have, and none of `not_of`.
struct TableOf {
  std::string_view title;
  std::string_view section;
  PortTypes of = kEveryType;
  PortTypes not_of = 0;
};
constexpr TableOf kTables[] = {{"daemon", "daemon"},
                               {"worker", "worker"},
                               {"nic", "nic"},
                               {"port", "port"},
                               {"port, app and guest", "port", kApp | kGuest, kTap},
                               {"port, app", "port", kApp, kGuest | kTap},
                               {"port, guest", "port", kGuest, kApp},
                               {"port, tap", "port", kTap, kApp},
                               {"rule", "rule"}};

std::string table_text(const TableOf& table) {
  std::string text = "| key | value | default | meaning |\n|---|---|---|---|\n";
  for (const KeyText& row : key_texts(table.section)) {
    const Key& key = row.key;
    if ((key.of & table.of) == table.of && (key.of & table.not_of) == 0) {
      const std::string_view page = key.page.substr(0, key.page.find(".md"));
      text += fmt::format("| `{}` | {} | {} | {}{} |\n", key.name, row.value, row.by_default, key.says,
                          page.empty() ? "" : fmt::format("; see [{}]({})", page, key.page));
    }
  }
  return text;
}

}  // namespace

std::vector<KeyText> key_texts(std::string_view section) {
  return section == "daemon"   ? describe<DaemonConfig>(plain)
         : section == "worker" ? describe<WorkerConfig>(plain)
         : section == "nic"    ? describe<NicConfig>(plain)
         : section == "port"   ? describe<PortConfig>(port_of)
                               : describe<RuleConfig>(plain);
}

std::vector<KeyTable> key_tables() {
  std::vector<KeyTable> tables;
  for (const TableOf& table : kTables) {
    tables.push_back({table.title, table_text(table)});
  }
  return tables;
}

std::string range_text(IntegerRange range) {
  if (range.kind == IntegerRange::Kind::kAny) {
    return fmt::format("a number from {} to {}", range.low, range.high);
  }
  return fmt::format("{}a power of two from {} to {}",
                     range.kind == IntegerRange::Kind::kPowerOfTwoOrZero ? "0 or " : "", range.low,
                     range.high);
}

}  // namespace sluice
