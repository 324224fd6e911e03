// From two looks at the counters to rates per second.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace sluice {

// One line of `sluicectl watch`: a NIC or a port.
struct Rate {
  std::string name;                                                 // "nic eth1", "port dns"
  double rx_packets = 0, rx_bits = 0, tx_packets = 0, tx_bits = 0;  // per second
  double drops = 0;                                                 // all drop_ counters together, per second
  double faults = 0;  // all fault_ counters together, per second
};

// `before` and `after` as show.counters gives them, `interval_ns` apart. A counter that went back (the port
// was made anew) counts from 0; one that was not there before too.
std::vector<Rate> rates_between(const nlohmann::json& before, const nlohmann::json& after,
                                std::uint64_t interval_ns);

nlohmann::json rates_to_json(const std::vector<Rate>& rates);

}  // namespace sluice
