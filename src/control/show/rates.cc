#include "control/show/rates.h"

#include <map>

namespace sluice {

using nlohmann::json;

namespace {

std::uint64_t number_of(const json& value) {
  return value.is_number_unsigned() || value.is_number_integer() ? value.get<std::uint64_t>() : 0;
}

// "nic.eth0.100.rx_packets": what stands between the kind and the last dot is the name, dots and all.
struct CounterName {
  std::string owner;    // "nic eth0.100"
  std::string counter;  // "rx_packets"
};
CounterName split(const std::string& key) {
  std::size_t first = key.find('.'), last = key.rfind('.');
  if (first == std::string::npos || first == last) {
    return {};
  }
  return {key.substr(0, first) + " " + key.substr(first + 1, last - first - 1), key.substr(last + 1)};
}

}  // namespace

std::vector<Rate> rates_between(const json& before, const json& after, std::uint64_t interval_ns) {
  std::map<std::string, Rate> rates;
  if (!after.is_object() || interval_ns == 0) {
    return {};
  }
  double seconds = static_cast<double>(interval_ns) / 1e9;
  for (const auto& [key, value] : after.items()) {
    auto [owner, counter] = split(key);
    if (!owner.starts_with("nic ") && !owner.starts_with("port ")) {
      continue;
    }
    std::uint64_t now = number_of(value);
    std::uint64_t then = before.is_object() ? number_of(before.value(key, json(0))) : 0;
    double rate = static_cast<double>(now >= then ? now - then : now) / seconds;
    Rate& line = rates[owner];
    if (counter == "rx_packets") {
      line.rx_packets += rate;
    } else if (counter == "rx_bytes") {
      line.rx_bits += 8 * rate;
    } else if (counter == "tx_packets") {
      line.tx_packets += rate;
    } else if (counter == "tx_bytes") {
      line.tx_bits += 8 * rate;
    } else if (counter.starts_with("drop_")) {
      line.drops += rate;
    } else if (counter.starts_with("fault_")) {
      line.faults += rate;
    }
  }
  std::vector<Rate> list;
  for (auto& [name, rate] : rates) {
    rate.name = name;
    list.push_back(rate);
  }
  return list;
}

json rates_to_json(const std::vector<Rate>& rates) {
  json out = json::array();
  for (const Rate& rate : rates) {
    out.push_back({{"name", rate.name},
                   {"rx_packets_per_second", rate.rx_packets},
                   {"rx_bits_per_second", rate.rx_bits},
                   {"tx_packets_per_second", rate.tx_packets},
                   {"tx_bits_per_second", rate.tx_bits},
                   {"drops_per_second", rate.drops},
                   {"faults_per_second", rate.faults}});
  }
  return out;
}

}  // namespace sluice
