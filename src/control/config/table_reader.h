// TableReader: takes the values of one section out of a TOML table, by the table of keys, and says what is
// wrong with the first that is not as it should be.
#pragma once

#include <toml++/toml.h>

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "control/config/keys.h"

namespace sluice {

// Where in the file values stand: "port.dns.queues[1]", "rule[0].to".
class Places {
 public:
  // `file` empty: the values do not come from a file, sentences carry no place.
  explicit Places(std::string file) : file_(std::move(file)) {}

  void note(const std::string& path, const toml::source_position& position);
  // "FILE:LINE: " of the value, or of what encloses it.
  std::string of(std::string path) const;

 private:
  std::string file_;
  std::map<std::string, std::uint32_t> lines_;
};

std::string_view type_text(const toml::node& node);  // "a string", "an integer" ...

class TableReader {
 public:
  // `path` is where the table stands, for lines; `subject` is what a sentence calls it.
  TableReader(Places& places, std::string path, std::string subject, const toml::table& table);

  // Reads every key that is there. An unknown one is the first error; what must be given and is not, the
  // last.
  template <typename Section>
  void read(Section& section) {
    only(key_names<Section>());
    read(section, kEveryType);
  }
  // For ports of this type, whose keys only() has looked at.
  template <typename Section>
  void read(Section& section, PortTypes type) {
    for (const auto& [key, field] : keys<Section>()) {
      if ((key.of & type) != 0) {
        read_key(key, field(section));
      }
    }
    for (const auto& [key, unused] : keys<Section>()) {
      if ((key.required & type) != 0) {
        need(key);
      }
    }
  }
  void only(std::span<const std::string_view> known_keys);
  void text(std::string_view key, std::string& out);  // left alone when the key is absent
  void need(const Key& key);

  // The first error wins. `message` begins after "SUBJECT.KEY ".
  void wrong(std::string_view key, const std::string& message);
  Result<void> result() const;
  bool ok() const { return !failed_; }

 private:
  void read_key(const Key& key, Field field);
  void item_text(const toml::node& item, const std::string& key, std::string& out);
  bool item_integer(const toml::node& item, const std::string& key, std::int64_t& out, IntegerRange range);
  const toml::array* array(const Key& key, const toml::node& value);
  std::string choice(const Key& key, const toml::node& value);
  template <typename Add>
  void one_or_more(const Key& key, const toml::node& value, Add add);
  template <typename Read, typename T>
  void judged(Read&& read, std::string_view key, T& out);

  void take(const Key& key, const toml::node& value, bool& out);
  void take(const Key& key, const toml::node& value, std::string& out);
  void take(const Key& key, const toml::node& value, std::uint64_t& bytes);
  void take(const Key& key, const toml::node& value, std::vector<std::string>& out);
  void take(const Key& key, const toml::node& value, std::vector<MacAddress>& out);
  void take(const Key& key, const toml::node& value, std::vector<QueueName>& out);
  void take(const Key& key, const toml::node& value, std::optional<std::vector<std::uint16_t>>& out);
  void take(const Key& key, const toml::node& value, std::vector<WorkerConfig>& out);
  template <typename T>
  void take(const Key& key, const toml::node& value, T& out);  // integers and enums

  Places& places_;
  std::string path_;
  std::string subject_;
  const toml::table& table_;
  bool failed_ = false;
  Error error_;
};

}  // namespace sluice
