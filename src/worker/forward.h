// Forwarding: the one rule of the data path (DESIGN.md §1, §5).
//
//   the page is of the destination's own domain  ->  it is handed over, nothing is copied      (D1)
//   anything else                                ->  one copy into the destination's memory
//
// A burst is grouped by destination, so that a destination is called once per burst and never once per
// packet.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "base/ids.h"
#include "port/port.h"
#include "stats/counter.h"

namespace sluice {

// Where a packet for a port goes; null: nobody reads that port here.
using LaneTable = std::array<Lane*, kMaxPorts>;

// One worker's, used by its thread alone; the counters are for any thread.
class Forwarder {
 public:
  Forwarder();

  // At most kBurst packets. Returns the same packets as their destinations left them, grouped by port: those
  // whose `page` is not kNone were not taken and go home. Valid until the next call.
  std::span<Packet> forward(const Source& source, std::span<Packet> burst, const LaneTable& by_port);

  std::uint64_t no_reader(PortId port) const;
  void visit(CounterVisitor& visitor) const;

 private:
  static constexpr std::uint8_t kNoGroup = 0xff;
  static_assert(kBurst < kNoGroup);

  std::span<Packet> forward_groups(const Source& source, std::span<const Packet> burst,
                                   const LaneTable& by_port);
  void deliver(const Source& source, std::span<Packet> group, const LaneTable& by_port);

  std::array<std::uint8_t, kMaxPorts + 1>
      group_of_;                        // kNoGroup between bursts; the last entry: ports that cannot be
  std::array<Packet, kBurst> grouped_;  // a mixed burst, moved here in the order of its groups

  Counter groups_;
  Counter drop_verdict_;
  Counter drop_bad_port_;
  Counter drop_no_reader_;
  std::array<Counter, kMaxPorts> no_reader_;
};

}  // namespace sluice
