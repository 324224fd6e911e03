// The keys of the config file, in one table. The reader, the writer, the parameters of `port.add` and
// `rule.add`, `sluicectl port add` with its completion and the tables of docs/config.md come from it. A new
// key is a member in config.h and a row here.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "control/config/config.h"

namespace sluice {

// Types of ports, as a set.
using PortTypes = std::uint8_t;
inline constexpr PortTypes kApp = 1, kGuest = 2, kTap = 4, kEveryType = kApp | kGuest | kTap;
inline PortTypes types_of(const PortConfig& port) {
  return static_cast<PortTypes>(1 << port.of_type.index());
}

struct IntegerRange {
  std::int64_t low = std::numeric_limits<std::int32_t>::min();
  std::int64_t high = std::numeric_limits<std::int32_t>::max();
  enum class Kind : std::uint8_t { kAny, kPowerOfTwo, kPowerOfTwoOrZero, kCpu } kind = Kind::kAny;
};
// "a number from 1 to 64", "0 or a power of two from 64 to 65536".
std::string range_text(IntegerRange range);

// Where a section has the value of a key. What it points to says how the value is written: an enum by one of
// the key's words, 64 bits as a size. Nothing: another kind of port has the key.
using Field =
    std::variant<std::monostate, bool*, std::string*, std::uint16_t*, std::uint32_t*, std::int32_t*,
                 std::uint64_t*, std::optional<std::uint32_t>*, BindMode*, IdleMode*, SwitchMode*, GuestRole*,
                 std::vector<std::string>*, std::vector<MacAddress>*, std::vector<QueueName>*,
                 std::optional<std::vector<std::uint16_t>>*, std::vector<WorkerConfig>*>;

struct Key {
  std::string_view name;
  std::string_view says;          // one sentence, for people; without its full stop
  PortTypes of = kEveryType;      // which ports have it
  PortTypes required = 0;         // of which it must be given
  std::string_view example = {};  // what to write where it must be given; NAME is the section's
  std::span<const std::string_view> words = {};  // one of these
  IntegerRange range = {};
  std::string_view unit = {};                  // of an integer
  std::string_view elements = {};              // of an array: what it is of
  bool (*good)(const std::string&) = nullptr;  // is a string of the array such an element?
  std::string_view by_default = {};            // in words, where the value itself says too little
  std::string_view page = {};                  // of docs/, that says more
  std::string_view now_called = {};            // this is an earlier name of that key
  bool always_written = false;                 // also with its default
};

template <typename Section>
struct KeyOf {
  Key key;
  Field (*field)(Section&);
};

// In the order of the tables and of what to_toml() writes.
template <typename Section>
std::span<const KeyOf<Section>> keys();
template <>
std::span<const KeyOf<DaemonConfig>> keys();
template <>
std::span<const KeyOf<WorkerConfig>> keys();
template <>
std::span<const KeyOf<NicConfig>> keys();
template <>
std::span<const KeyOf<PortConfig>> keys();
template <>
std::span<const KeyOf<RuleConfig>> keys();

// Their names, of ports those that any of these types has.
template <typename Section>
std::vector<std::string_view> key_names(PortTypes of = kEveryType) {
  std::vector<std::string_view> names;
  for (const auto& [key, unused] : keys<Section>()) {
    if ((key.of & of) != 0) {
      names.push_back(key.name);
    }
  }
  return names;
}

}  // namespace sluice
