#include "control/show/render.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace sluice {

using nlohmann::json;

namespace {

constexpr auto kRight = Table::Align::kRight;

// Printable ASCII stays. Everything else could steer the terminal, or upset the columns.
std::string printable(std::string text) {
  std::ranges::replace_if(
      text, [](char c) { return c < 0x20 || c == 0x7f; }, '?');  // char is signed: beyond ASCII too
  return text;
}

// One value of a result as a cell.
std::string cell(const json& object, std::string_view key) {
  auto found = object.is_object() ? object.find(key) : object.end();
  if (!object.is_object() || found == object.end() || found->is_null()) {
    return "-";
  }
  const json& value = *found;
  if (value.is_string()) {
    return value.get<std::string>().empty() ? "-" : value.get<std::string>();
  }
  if (value.is_boolean()) {
    return value.get<bool>() ? "yes" : "no";
  }
  if (value.is_number_integer() && value >= 0) {
    return grouped(value.get<std::uint64_t>());
  }
  if (value.is_array()) {
    std::string list;
    for (const json& item : value) {
      if (!list.empty()) {
        list += ',';
      }
      list += item.is_string() ? item.get<std::string>() : item.dump();
    }
    return list.empty() ? "-" : list;
  }
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

// A number that is a name, not a quantity: no separators.
std::string id_cell(const json& object, std::string_view key) {
  std::string text = cell(object, key);
  std::erase(text, ',');
  return text;
}

std::string counter(const json& object, std::string_view key) {
  auto counters = object.is_object() ? object.find("counters") : object.end();
  return object.is_object() && counters != object.end() ? cell(*counters, key) : "-";
}

// The sum of all counters that begin so.
std::string counter_sum(const json& object, std::string_view prefix) {
  auto counters = object.is_object() ? object.find("counters") : object.end();
  if (!object.is_object() || counters == object.end() || !counters->is_object()) {
    return "-";
  }
  std::uint64_t sum = 0;
  for (const auto& [key, value] : counters->items()) {
    if (key.starts_with(prefix) && value.is_number_integer()) {
      sum += value.get<std::uint64_t>();
    }
  }
  return grouped(sum);
}

std::string or_nothing(const Table& table, std::string_view what) {
  return table.empty() ? fmt::format("no {}\n", what) : table.text();
}

}  // namespace

void Table::row(std::vector<std::string> cells) {
  for (std::string& text : cells) {
    text = printable(std::move(text));
  }
  rows_.push_back(std::move(cells));
}

std::string Table::text() const {
  std::vector<std::size_t> widths;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    std::size_t width = columns_[c].title.size();
    for (const auto& row : rows_) {
      width = std::max(width, row[c].size());
    }
    widths.push_back(width);
  }
  std::string out;
  auto line = [&](auto&& cell_of) {
    std::string text;
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      text += c == 0 ? "" : "  ";
      text += columns_[c].align == Align::kRight ? fmt::format("{:>{}}", cell_of(c), widths[c])
                                                 : fmt::format("{:<{}}", cell_of(c), widths[c]);
    }
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + "\n";
  };
  line([&](std::size_t c) -> const std::string& { return columns_[c].title; });
  for (const auto& row : rows_) {
    line([&](std::size_t c) -> const std::string& { return row[c]; });
  }
  return out;
}

std::string grouped(std::uint64_t value) {
  std::string digits = std::to_string(value), out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) {
      out += ',';
    }
    out += digits[i];
  }
  return out;
}

std::string si(double value, std::string_view unit) {
  constexpr std::array<std::string_view, 5> kPrefixes{"", "k", "M", "G", "T"};
  std::size_t prefix = 0;
  while (value >= 999.5 && prefix + 1 < kPrefixes.size()) {
    value /= 1000;
    ++prefix;
  }
  int decimals = prefix == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f} {}{}", value, decimals, kPrefixes[prefix], unit);
}

std::string render_nics(const json& result) {
  Table table({{"NIC"},
               {"DRIVER"},
               {"MAC"},
               {"MTU", kRight},
               {"LINK"},
               {"XDP"},
               {"AF_XDP"},
               {"QUEUES"},
               {"RX PACKETS", kRight},
               {"TX PACKETS", kRight},
               {"DROPS", kRight}});
  for (const json& nic : result) {
    table.row({cell(nic, "name"), cell(nic, "driver"), cell(nic, "mac"), id_cell(nic, "mtu"),
               cell(nic, "link") == "yes"  ? "up"
               : cell(nic, "link") == "no" ? "down"
                                           : cell(nic, "link"),
               cell(nic, "mode"), cell(nic, "af_xdp"), cell(nic, "queues"), counter(nic, "rx_packets"),
               counter(nic, "tx_packets"), counter_sum(nic, "drop_")});
  }
  return or_nothing(table, "NICs");
}

std::string render_queues(const json& result) {
  Table table({{"NIC"},
               {"QUEUE", kRight},
               {"OWNER"},
               {"STATE"},
               {"WORKER", kRight},
               {"MODE"},
               {"RX PACKETS", kRight},
               {"TX PACKETS", kRight},
               {"DROPS", kRight},
               {"WHY"}});
  for (const json& queue : result) {
    table.row({cell(queue, "nic"), id_cell(queue, "queue"), cell(queue, "owner"), cell(queue, "state"),
               id_cell(queue, "worker"), cell(queue, "mode"), counter(queue, "rx_packets"),
               counter(queue, "tx_packets"), counter_sum(queue, "drop_"), cell(queue, "why")});
  }
  return or_nothing(table, "queues");
}

namespace {

// An app without an address sends nothing, wherever its uplink leads.
std::string uplink_cell(const json& port) {
  const bool no_address = cell(port, "type") == "app" && cell(port, "uplink") == "-" &&
                          port.contains("mac") && port["mac"].empty();
  return cell(port, "uplink") + (no_address ? " (no mac)" : "");
}

}  // namespace

std::string render_ports(const json& result) {
  Table table({{"PORT"},
               {"TYPE"},
               {"STATE"},
               {"CLIENT"},
               {"PID", kRight},
               {"UPLINK"},
               {"QUEUES"},
               {"PAGES HELD", kRight},
               {"LIMIT", kRight},
               {"ZERO COPY", kRight},
               {"COPIED", kRight},
               {"TX PACKETS", kRight},
               {"DROPS", kRight},
               {"FAULTS", kRight}});
  for (const json& port : result) {
    table.row({cell(port, "name"), cell(port, "type"), cell(port, "state"), cell(port, "client"),
               id_cell(port, "pid"), uplink_cell(port), cell(port, "queues"), cell(port, "pages_held"),
               cell(port, "page_limit"), counter(port, "zero_copy"), counter(port, "copied"),
               counter(port, "tx_packets"), counter_sum(port, "drop_"), counter_sum(port, "fault_")});
  }
  return or_nothing(table, "ports");
}

namespace {

// Of an array in an object; empty when there is none.
const json& items(const json& object, std::string_view key) {
  static const json kNone = json::array();
  auto found = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && found != object.end() && found->is_array() ? *found : kNone;
}

std::string bytes_text(std::uint64_t bytes) {
  constexpr std::array<std::string_view, 4> kUnits{"B", "KiB", "MiB", "GiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && bytes % 1024 == 0 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{} {}", bytes, kUnits[unit]);
}

std::string bytes_cell(const json& guest, const char* key) {
  const json* memory = guest.is_object() && guest.contains("memory") ? &guest["memory"] : nullptr;
  const bool there = memory != nullptr && memory->is_object() && memory->contains(key) &&
                     (*memory)[key].is_number_unsigned();
  return bytes_text(there ? (*memory)[key].get<std::uint64_t>() : 0);
}

// "2/4": of so many rings so many run.
std::string rings_cell(const json& guest) {
  const json& rings = items(guest, "rings");
  auto running =
      std::ranges::count_if(rings, [](const json& ring) { return cell(ring, "running") == "yes"; });
  return fmt::format("{}/{}", running, rings.size());
}

std::string ring_state(const json& ring) {
  return cell(ring, "broken") == "yes"    ? "broken"
         : cell(ring, "running") == "yes" ? "running"
         : cell(ring, "enabled") == "yes" ? "enabled"
                                          : "stopped";
}

std::string render_rings(const json& guests) {
  Table table({{"GUEST"},
               {"RING", kRight},
               {"KIND"},
               {"FORMAT"},
               {"ENTRIES", kRight},
               {"STATE"},
               {"WORKER", kRight},
               {"PACKETS", kRight},
               {"KICKS", kRight},
               {"CALLS", kRight},
               {"CALLS SPARED", kRight}});
  for (const json& guest : guests) {
    for (const json& ring : items(guest, "rings")) {
      table.row({cell(guest, "name"), id_cell(ring, "index"), cell(ring, "kind"), cell(ring, "format"),
                 id_cell(ring, "entries"), ring_state(ring), id_cell(ring, "worker"), cell(ring, "packets"),
                 cell(ring, "kicks"), cell(ring, "calls"), cell(ring, "calls_suppressed")});
    }
  }
  return table.empty() ? "" : "\n" + table.text();
}

}  // namespace

std::string render_guests(const json& result) {
  Table table({{"GUEST"},
               {"STATE"},
               {"PID", kRight},
               {"UPLINK"},
               {"MAC"},
               {"VLAN", kRight},
               {"MODE"},
               {"RINGS", kRight},
               {"REGIONS", kRight},
               {"MEMORY", kRight},
               {"LIMIT", kRight},
               {"KICKS", kRight},
               {"CALLS", kRight},
               {"CALLED BY"},
               {"RX PACKETS", kRight},
               {"TX PACKETS", kRight},
               {"DROPS", kRight},
               {"FAULTS", kRight}});
  Table features({{"GUEST"}, {"FEATURES"}});
  for (const json& guest : result) {
    table.row({cell(guest, "name"), cell(guest, "state"), id_cell(guest, "pid"), cell(guest, "uplink"),
               cell(guest, "mac"), id_cell(guest, "vlan"), cell(guest, "mode"), rings_cell(guest),
               std::to_string(items(guest, "regions").size()), bytes_cell(guest, "bytes"),
               bytes_cell(guest, "limit_bytes"), counter(guest, "kicks"), counter(guest, "calls"),
               cell(guest, "calls"), counter(guest, "rx_packets"), counter(guest, "tx_packets"),
               counter_sum(guest, "drop_"), counter_sum(guest, "fault_")});
    for (const char* key : {"features", "protocol_features"}) {
      if (!items(guest, key).empty()) {
        features.row({cell(guest, "name"), cell(guest, key)});
      }
    }
  }
  return or_nothing(table, "guests") + (features.empty() ? "" : "\n" + features.text()) +
         render_rings(result);
}

std::string render_rules(const json& result) {
  Table table({{"ID", kRight},
               {"FROM"},
               {"PRIORITY", kRight},
               {"MATCH"},
               {"TO"},
               {"SHED"},
               {"PACKETS", kRight},
               {"BYTES", kRight}});
  for (const json& rule : result) {
    std::string match = cell(rule, "match");
    bool implicit = cell(rule, "implicit") == "yes";
    table.row({id_cell(rule, "id"), cell(rule, cell(rule, "nic") == "-" ? "port" : "nic"),
               implicit ? "implicit" : id_cell(rule, "priority"), match == "-" ? "(everything)" : match,
               cell(rule, "to"), cell(rule, "shed"), cell(rule, "packets"), cell(rule, "bytes")});
  }
  return or_nothing(table, "rules");
}

std::string render_pools(const json& result) {
  Table table({{"POOL"},
               {"DOMAIN"},
               {"IN FLIGHT", kRight},
               {"LIMIT", kRight},
               {"ALLOC FAST", kRight},
               {"ALLOC SLOW", kRight},
               {"ALLOC EMPTY", kRight},
               {"RECYCLED", kRight}});
  for (const json& pool : result) {
    table.row({cell(pool, "name"), cell(pool, "domain"), counter(pool, "inflight"), counter(pool, "limit"),
               counter(pool, "alloc_fast"), counter(pool, "alloc_slow"), counter(pool, "alloc_empty"),
               counter(pool, "recycle_cached")});
  }
  return or_nothing(table, "pools");
}

std::string render_counters(const json& result) {
  Table table({{"COUNTER"}, {"VALUE", kRight}});
  if (result.is_object()) {
    for (const auto& [name, value] : result.items()) {
      table.row({name, cell(result, name)});
    }
  }
  return or_nothing(table, "counters");
}

std::string render_config(const json& result) {
  std::string text = result.is_object() ? result.value("toml", "") : "";
  std::erase_if(text, [](char c) { return static_cast<unsigned char>(c) < 0x20 && c != '\n'; });
  return text;
}

std::string render_rates(const std::vector<Rate>& rates) {
  Table table({{"NAME"},
               {"RX PACKETS", kRight},
               {"RX BITS", kRight},
               {"TX PACKETS", kRight},
               {"TX BITS", kRight},
               {"DROPS", kRight},
               {"FAULTS", kRight}});
  for (const Rate& rate : rates) {
    table.row({rate.name, si(rate.rx_packets, "pps"), si(rate.rx_bits, "bit/s"), si(rate.tx_packets, "pps"),
               si(rate.tx_bits, "bit/s"), si(rate.drops, "pps"), si(rate.faults, "/s")});
  }
  return or_nothing(table, "NICs and ports");
}

}  // namespace sluice
