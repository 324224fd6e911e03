#include "port/app/app_counters.h"

#include <utility>

namespace sluice {

void visit_lanes(const std::vector<AppLaneCounters>& lanes, CounterVisitor& visitor) {
  using Field = Counter AppLaneCounters::*;
  static constexpr std::pair<const char*, Field> kFields[] = {
      {"zero_copy", &AppLaneCounters::zero_copy},
      {"copied", &AppLaneCounters::copied},
      {"copied_bytes", &AppLaneCounters::copied_bytes},
      {"rx_packets", &AppLaneCounters::rx_packets},
      {"rx_bytes", &AppLaneCounters::rx_bytes},
      {"tx_packets", &AppLaneCounters::tx_packets},
      {"tx_bytes", &AppLaneCounters::tx_bytes},
      {"drop_ring_full", &AppLaneCounters::drop_ring_full},
      {"drop_page_limit", &AppLaneCounters::drop_page_limit},
      {"drop_too_long", &AppLaneCounters::drop_too_long},
      {"drop_vlan", &AppLaneCounters::drop_vlan},
      {"drop_tx_no_uplink", &AppLaneCounters::drop_tx_no_uplink},
      {"drop_tx_no_address", &AppLaneCounters::drop_tx_no_address},
      {"fault_return_forged", &AppLaneCounters::fault_return_forged},
      {"fault_return_double", &AppLaneCounters::fault_return_double},
      {"fault_return_foreign", &AppLaneCounters::fault_return_foreign},
      {"fault_ring_index", &AppLaneCounters::fault_ring_index},
      {"fault_tx_descriptor", &AppLaneCounters::fault_tx_descriptor},
      {"wakeups", &AppLaneCounters::wakeups},
  };
  for (const auto& [name, field] : kFields) {
    std::uint64_t sum = 0;
    for (const AppLaneCounters& lane : lanes) {
      sum += (lane.*field).value();
    }
    visitor.counter(name, sum);
  }
  visit_source_faults(lanes, visitor,
                      [](const AppLaneCounters& lane) -> const SourceCounters& { return lane.source; });
}

}  // namespace sluice
