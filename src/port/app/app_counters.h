// The counters of one lane of an app port. The lane's worker writes them; they belong to the port and survive
// sessions.
#pragma once

#include <vector>

#include "port/source_guard.h"
#include "stats/counter.h"

namespace sluice {

struct AppLaneCounters {
  Counter zero_copy, copied, copied_bytes;
  Counter rx_packets, rx_bytes;  // towards the app
  Counter tx_packets, tx_bytes;  // from the app, accepted
  Counter drop_ring_full, drop_page_limit, drop_too_long, drop_vlan, drop_tx_no_uplink, drop_tx_no_address;
  SourceCounters source;
  Counter fault_return_forged, fault_return_double, fault_return_foreign, fault_ring_index,
      fault_tx_descriptor;
  Counter wakeups;
  // Gauges, for the control thread's stall timeout and `show ports`; not shown by visit().
  Counter pages_lent;
  Counter pages_returned;  // ever
};

// Their sums over the lanes of a port, by name.
void visit_lanes(const std::vector<AppLaneCounters>& lanes, CounterVisitor& visitor);

}  // namespace sluice
