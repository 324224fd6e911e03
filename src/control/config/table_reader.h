// TableReader: takes the values out of one TOML table, and says what is wrong with the first that is not as
// it should be.
#pragma once

#include <toml++/toml.h>

#include <concepts>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "control/config/read.h"

namespace sluice {

struct IntegerRange {
  std::int64_t low;
  std::int64_t high;
  enum class Kind { kAny, kPowerOfTwo, kPowerOfTwoOrZero } kind = Kind::kAny;
};

std::string_view type_text(const toml::node& node);  // "a string", "an integer" ...

class TableReader {
 public:
  // `path` is where the table stands, for lines; `subject` is what a sentence calls it.
  TableReader(ConfigReader& reader, std::string path, std::string subject, const toml::table& table);
  // An unknown key is the first error.
  TableReader(ConfigReader& reader, std::string path, std::string subject, const toml::table& table,
              std::span<const std::string_view> known_keys);
  // For tables whose keys depend on one of them: a key that only another kind has is named as such.
  void only(std::span<const std::string_view> known_keys, std::string_view kind = "",
            std::initializer_list<std::span<const std::string_view>> of_any_kind = {});

  // Each leaves `out` alone when the key is absent, and does nothing once there was an error.
  void text(std::string_view key, std::string& out);
  void choice(std::string_view key, std::string& out, std::span<const std::string_view> choices);
  void boolean(std::string_view key, bool& out);
  template <std::integral T>
  void integer(std::string_view key, T& out, IntegerRange range) {
    std::int64_t value = 0;
    if (read_integer(key, value, range)) {
      out = static_cast<T>(value);
    }
  }
  // The value of the key, null when it is absent.
  const toml::node* node(std::string_view key);
  const toml::array* array(std::string_view key, std::string_view of_what);
  // Items of an array, for which `key` is for example "queues[0]".
  void item_text(const toml::node& item, const std::string& key, std::string& out);
  bool item_integer(const toml::node& item, const std::string& key, std::int64_t& out, IntegerRange range);

  // The first error wins. `message` begins after "SUBJECT.KEY ".
  void wrong(std::string_view key, const std::string& message);
  void missing(std::string_view key, std::string_view example);
  void need(std::string_view key, std::string_view example);  // missing(), if it is
  Result<void> result() const;
  bool ok() const { return !failed_; }

 private:
  bool read_integer(std::string_view key, std::int64_t& out, IntegerRange range);

  ConfigReader& reader_;
  std::string path_;
  std::string subject_;
  const toml::table& table_;
  bool failed_ = false;
  Error error_;
};

}  // namespace sluice
