#include "control/config/table_reader.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <concepts>

#include "abi/app.h"
#include "control/config/did_you_mean.h"

namespace sluice {

namespace {

constexpr std::size_t kMaxWorkers = SLUICE_APP_MAX_LANES;  // an app has a lane for each

IntegerRange on_this_machine(IntegerRange range) {
  using Kind = IntegerRange::Kind;
  return range.kind == Kind::kCpu ? IntegerRange{0, ::sysconf(_SC_NPROCESSORS_CONF) - 1} : range;
}

bool in_range(std::int64_t value, IntegerRange range) {
  if (range.kind == IntegerRange::Kind::kPowerOfTwoOrZero && value == 0) {
    return true;
  }
  bool shape = range.kind == IntegerRange::Kind::kAny ||
               (value > 0 && std::has_single_bit(static_cast<std::uint64_t>(value)));
  return shape && value >= range.low && value <= range.high;
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

}  // namespace

void Places::note(const std::string& path, const toml::source_position& position) {
  if (position.line != 0) {
    lines_[path] = position.line;
  }
}

std::string Places::of(std::string path) const {
  if (file_.empty()) {
    return "";
  }
  for (;;) {
    if (auto found = lines_.find(path); found != lines_.end()) {
      return fmt::format("{}:{}: ", file_, found->second);
    }
    std::size_t end = path.find_last_of(".[");
    if (end == std::string::npos) {
      return fmt::format("{}:1: ", file_);
    }
    path.resize(end);
  }
}

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

TableReader::TableReader(Places& places, std::string path, std::string subject, const toml::table& table)
    : places_(places), path_(std::move(path)), subject_(std::move(subject)), table_(table) {
  places_.note(path_, table.source().begin);
  for (const auto& [key, value] : table) {
    places_.note(path_ + "." + std::string(key.str()), key.source().begin);
  }
}

void TableReader::only(std::span<const std::string_view> known_keys) {
  for (const auto& [key, value] : table_) {
    if (std::ranges::find(known_keys, key.str()) == known_keys.end()) {
      wrong(key.str(), "is not a key that Sluice knows" + suggestion(key.str(), known_keys, "keys"));
    }
  }
}

void TableReader::need(const Key& key) {
  if (failed_ || table_.contains(key.name)) {
    return;
  }
  std::string example(key.example);
  if (std::size_t name = example.find("NAME"); name != std::string::npos) {
    example.replace(name, 4, path_.substr(path_.find('.') + 1));
  }
  failed_ = true;
  error_.message = fmt::format("{}{} has no {}; write for example {} = {}", places_.of(path_), subject_,
                               key.name, key.name, example);
}

void TableReader::wrong(std::string_view key, const std::string& message) {
  if (!failed_) {
    failed_ = true;
    error_.message =
        fmt::format("{}{}.{} {}", places_.of(path_ + "." + std::string(key)), subject_, key, message);
  }
}

Result<void> TableReader::result() const {
  if (failed_) {
    return std::unexpected(error_);
  }
  return {};
}

void TableReader::text(std::string_view key, std::string& out) {
  if (const toml::node* value = table_.get(key); value != nullptr && ok()) {
    item_text(*value, std::string(key), out);
  }
}

void TableReader::read_key(const Key& key, Field field) {
  const toml::node* value = table_.get(key.name);
  if (value == nullptr || failed_) {
    return;
  }
  if (!key.now_called.empty() && table_.contains(key.now_called)) {
    wrong(key.name, fmt::format("is the earlier name of `{}`; leave it out", key.now_called));
    return;
  }
  std::visit(
      [&]<typename Out>(Out out) {
        if constexpr (!std::is_same_v<Out, std::monostate>) {
          take(key, *value, *out);
        }
      },
      field);
}

void TableReader::item_text(const toml::node& item, const std::string& key, std::string& out) {
  places_.note(path_ + "." + key, item.source().begin);
  if (!item.is_string()) {
    wrong(key, fmt::format("is {}; it must be a string", type_text(item)));
    return;
  }
  out = item.as_string()->get();
}

bool TableReader::item_integer(const toml::node& item, const std::string& key, std::int64_t& out,
                               IntegerRange range) {
  places_.note(path_ + "." + key, item.source().begin);
  range = on_this_machine(range);
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

const toml::array* TableReader::array(const Key& key, const toml::node& value) {
  if (!value.is_array()) {
    wrong(key.name, fmt::format("is {}; it must be an array of {}", type_text(value), key.elements));
  }
  return value.as_array();
}

std::string TableReader::choice(const Key& key, const toml::node& value) {
  std::string word;
  item_text(value, std::string(key.name), word);
  if (ok() && std::ranges::find(key.words, word) == key.words.end()) {
    wrong(key.name, fmt::format("is \"{}\"; it must be one of {}", word, join(key.words, ", ")));
  }
  return word;
}

// One string, or an array of them; calls `add` with each and its key, "mac" or "mac[1]".
template <typename Add>
void TableReader::one_or_more(const Key& key, const toml::node& value, Add add) {
  auto take_one = [&](const toml::node& item, const std::string& item_key) {
    std::string text;
    item_text(item, item_key, text);
    add(text, item_key);
  };
  const toml::array* list = value.as_array();
  for (std::size_t i = 0; list != nullptr && i < list->size(); ++i) {
    take_one(*list->get(i), fmt::format("{}[{}]", key.name, i));
  }
  if (list == nullptr) {
    take_one(value, std::string(key.name));
  }
}

// What `read` makes of a text, or its error.
template <typename Read, typename T>
void TableReader::judged(Read&& read, std::string_view key, T& out) {
  if (auto value = read; value) {
    out = std::move(*value);
  } else {
    wrong(key, value.error().message);
  }
}

void TableReader::take(const Key& key, const toml::node& value, bool& out) {
  if (!value.is_boolean()) {
    wrong(key.name, fmt::format("is {}; it must be true or false", type_text(value)));
    return;
  }
  out = value.as_boolean()->get();
}

void TableReader::take(const Key& key, const toml::node& value, std::string& out) {
  if (key.words.empty()) {
    item_text(value, std::string(key.name), out);
  } else {
    out = choice(key, value);
  }
}

void TableReader::take(const Key& key, const toml::node& value, std::uint64_t& bytes) {
  std::string text;
  item_text(value, std::string(key.name), text);
  judged(read_size(text), key.name, bytes);
}

void TableReader::take(const Key& key, const toml::node& value, std::vector<std::string>& out) {
  if (key.good != nullptr) {
    one_or_more(key, value, [&](const std::string& text, const std::string& item) {
      if (!key.good(text)) {
        wrong(item, fmt::format("is \"{}\"; it must be {}", text, key.elements));
      }
      out.push_back(text);
    });
    return;
  }
  const toml::array* names = array(key, value);  // or numbers, as of users
  for (std::size_t i = 0; names != nullptr && i < names->size(); ++i) {
    const toml::node& item = *names->get(i);
    std::string& name = out.emplace_back();
    if (auto number = item.value_exact<std::int64_t>()) {
      name = std::to_string(*number);
    } else {
      item_text(item, fmt::format("{}[{}]", key.name, i), name);
    }
  }
}

void TableReader::take(const Key& key, const toml::node& value, std::vector<MacAddress>& out) {
  one_or_more(key, value, [&](const std::string& text, const std::string& item) {
    judged(read_mac(text), item, out.emplace_back());
  });
}

void TableReader::take(const Key& key, const toml::node& value, std::vector<QueueName>& out) {
  if (array(key, value) != nullptr) {
    one_or_more(key, value, [&](const std::string& text, const std::string& item) {
      judged(read_queue_name(text), item, out.emplace_back());
    });
  }
}

void TableReader::take(const Key& key, const toml::node& value,
                       std::optional<std::vector<std::uint16_t>>& out) {
  const toml::array* list = value.as_array();
  if (list == nullptr) {
    if (value.value<std::string>() != "all") {
      wrong(key.name, fmt::format("is {}; it must be \"all\" or an array of {}",
                                  value.is_string() ? "\"" + *value.value<std::string>() + "\""
                                                    : std::string(type_text(value)),
                                  key.elements));
    }
    return;
  }
  out.emplace();
  for (std::size_t i = 0; i < list->size(); ++i) {
    std::int64_t queue = 0;
    if (item_integer(*list->get(i), fmt::format("{}[{}]", key.name, i), queue, key.range)) {
      out->push_back(static_cast<std::uint16_t>(queue));
    }
  }
}

void TableReader::take(const Key& key, const toml::node& value, std::vector<WorkerConfig>& out) {
  const toml::array* workers = array(key, value);
  if (workers == nullptr) {
    return;
  }
  if (workers->empty() || workers->size() > kMaxWorkers) {
    wrong(key.name, fmt::format("has {} workers; it must have 1 to {}, for example [ {{ cpu = 0 }} ]",
                                workers->size(), kMaxWorkers));
  }
  for (std::size_t i = 0; ok() && i < workers->size(); ++i) {
    const toml::node& item = *workers->get(i);
    const std::string name = fmt::format("{}[{}]", key.name, i);
    const std::string path = path_ + "." + name;
    places_.note(path, item.source().begin);
    if (!item.is_table()) {
      wrong(name, fmt::format("is {}; it must be a table, for example {{ cpu = 0 }}", type_text(item)));
      return;
    }
    TableReader reader(places_, path, path, *item.as_table());
    reader.read(out.emplace_back());
    if (auto done = reader.result(); !done) {
      failed_ = true;
      error_ = done.error();
    }
  }
}

template <typename T>
void TableReader::take(const Key& key, const toml::node& value, T& out) {
  if constexpr (std::is_enum_v<T>) {
    const auto word = std::ranges::find(key.words, choice(key, value));
    if (word != key.words.end()) {
      out = static_cast<T>(word - key.words.begin());
    }
  } else if (std::int64_t number = 0; item_integer(value, std::string(key.name), number, key.range)) {
    if constexpr (std::integral<T>) {
      out = static_cast<T>(number);
    } else {
      out = static_cast<typename T::value_type>(number);
    }
  }
}

}  // namespace sluice
