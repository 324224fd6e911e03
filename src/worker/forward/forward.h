// Forwarding: the one rule of the data path (docs/worker.md).
//
//   the page is of the destination's own domain  ->  it is handed over, nothing is copied      (D1)
//   anything else                                ->  one copy into the destination's memory
//
// A burst is grouped by destination, so that a destination is called once per burst and never once per
// packet. What is to be flooded is copied to each port that the switch names.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/ids.h"
#include "port/port.h"
#include "stats/counter.h"

namespace sluice {

class PortMeter;
class Switch;

// Most packets that one burst becomes by flooding (D6): beyond that, packets of the burst are dropped, so
// that a peer that sends broadcasts without end costs the others a bounded part of each turn. Up to 31 ports
// hear every broadcast of a full burst.
inline constexpr std::uint32_t kMaxFloodCopies = 2048;
// The same in bytes: of so many frames of 2048 bytes. Only longer ones meet it.
inline constexpr std::uint32_t kMaxFloodBytes = kMaxFloodCopies * 2048;

// Where a packet for a port goes; null: nobody reads that port here.
using LanesByPort = std::array<Lane*, kMaxPorts>;

// One worker's, used by its thread alone; the counters are for any thread.
class Forwarder {
 public:
  Forwarder();

  // At most kBurst packets. Returns the same packets as their destinations left them, grouped by port: those
  // whose `page` is not kNone were not taken and go home. Valid until the next call. `switching` says who
  // hears what is for kFlood; without one nobody does. Packets for one port keep their order.
  std::span<Packet> forward(const BurstInfo& info, std::span<Packet> burst, const LanesByPort& by_port,
                            const Switch* switching = nullptr);

  // Resting lanes that got something since the caller last emptied this.
  std::vector<Lane*>& roused() { return roused_; }
  // Who counts what each destination costs; none: nobody.
  void set_meter(PortMeter* meter) { meter_ = meter; }

  std::uint64_t no_reader(PortId port) const;
  void visit(CounterVisitor& visitor) const;

 private:
  static constexpr std::uint8_t kNoGroup = 0xff;
  static_assert(kBurst < kNoGroup);

  // False, with nothing done: some are not for a port of the table.
  bool forward_groups(const BurstInfo& info, std::span<const Packet> burst, std::span<Packet> grouped,
                      const LanesByPort& by_port);
  void forward_runs(const BurstInfo& info, std::span<const Packet> burst, const LanesByPort& by_port,
                    const Switch* switching);
  void deliver(const BurstInfo& info, std::span<Packet> group, const LanesByPort& by_port);
  void flood(const BurstInfo& info, std::span<const Packet> group, const LanesByPort& by_port,
             const Switch* switching);
  void copy_in(const BurstInfo& info, std::span<Packet> packets, Lane& to);
  void put_together(std::span<Packet> packets, std::uint32_t most_segments);
  void note_delivery(Lane& lane);
  bool admits(const BurstInfo& info, PortId port, std::size_t packets, const Lane& to,
              const LanesByPort& by_port);
  Lane* reader(PortId port, std::size_t packets, const LanesByPort& by_port);

  std::array<std::uint8_t, kMaxPorts + 1>
      group_of_;                        // kNoGroup between bursts; the last entry: ports that cannot be
  std::array<Packet, kBurst> grouped_;  // a mixed burst, moved here in the order of its groups
  std::array<Packet, kBurst> flood_;    // what of a burst is flooded ...
  std::array<Packet, kBurst> copies_;   // ... and what one port hears of it

  // Bodies of a burst that lie in more segments than their sink takes, each in one.
  Mapping together_;
  std::array<PacketExtra, kBurst> extras_;  // of the packets of these

  std::vector<Lane*> roused_;
  PortMeter* meter_ = nullptr;

  Counter groups_;
  Counter flooded_;
  Counter flood_copies_;
  Counter linearised_;
  Counter drop_verdict_;
  Counter drop_bad_port_;
  Counter drop_flood_limit_;
  Counter drop_reserved_;  // copies of frames that bridges do not forward
  Counter drop_no_reader_;
  std::array<Counter, kMaxPorts> no_reader_;
};

}  // namespace sluice
