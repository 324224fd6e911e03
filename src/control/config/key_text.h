// Keys and their values as text: for the config file, for its documentation and for people who ask.
#pragma once

#include <string>

#include "control/config/keys.h"

namespace sluice {

// A string of TOML, in its quotes.
std::string quoted(std::string_view text);
// As TOML: `"bridge"`, `[ "root" ]`; "": the section has no such key, or it has no value.
std::string toml_value(const Key& key, const Field& field);

// How somebody who writes values as words (a command line) has to take them.
enum class ValueKind : std::uint8_t { kText, kInteger, kBoolean, kList };

struct KeyText {
  const Key& key;
  ValueKind kind;
  std::string value;       // "integer, 64 to 1048576"
  std::string by_default;  // "4096", "must be given"
};
// Of "daemon", "worker", "nic", "port" (all types together) or "rule"; without earlier names.
std::vector<KeyText> key_texts(std::string_view section);

// The tables of docs/config.md. Each stands there between `<!-- keys: TITLE -->` and `<!-- end -->`.
struct KeyTable {
  std::string_view title;  // "port, app and guest"
  std::string text;
};
std::vector<KeyTable> key_tables();

}  // namespace sluice
