// Switch: where a frame goes that a guest, an app or the host sends; and who hears a flooded one.
//
// Made by the control thread, given to every worker as a table that never changes
// (Worker::Tables::switching): a new one replaces it inside Worker::call(), and the old one may go when every
// worker has had that call. The modes are macvtap's (ip-link(8), macvlan):
//
//   bridge    frames for another bridge port of the same uplink are delivered here, others leave by it
//   vepa      every frame leaves by the uplink; an external switch sends back frames for another local port
//   private   as vepa, and frames that come back from a local port are not delivered either
//
// Ports of one uplink are one segment, each VLAN of it on its own. Frames carry their VLAN as a tag here
// (port/vlan.h). Broadcast and multicast are flooded; a unicast address that nobody here has is beyond the
// uplink.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/choices.h"
#include "base/ids.h"
#include "base/mac.h"
#include "port/port.h"

namespace sluice {

// A port that has addresses of its own: a guest, the host. Apps need not be named here: they send as bridge
// ports do, and get what rules lead to them. `uplink` is a NIC's port, or kDrop: ports without an uplink form
// one segment of their own.
struct SwitchPort {
  PortId port{0};
  PortId uplink = PortId::kDrop;
  SwitchMode mode = SwitchMode::kBridge;
  std::uint16_t vlan = 0;        // access VLAN; frames on the switch carry the tag, so 0 means untagged
  bool trusted = false;          // hears reserved group addresses as well
  std::vector<MacAddress> macs;  // where two members claim one address in one VLAN, the first has it
};

// What a port's own flows do ahead of the addresses: `[[rule]] port = "vm0"`
// (worker/forward/ingress_rules.h). Pure but for its counters, which are per worker.
class IngressRules {
 public:
  virtual ~IngressRules() = default;
  // Rewrites packet.port and packet.rule of those that a rule matches and sets their bits in the result, bit
  // i for packet i; at most kBurst packets. The others keep what the lane set.
  virtual std::uint64_t steer(WorkerId worker, std::span<Packet> packets) const = 0;
};

class Switch {
 public:
  Switch() : Switch(std::vector<SwitchPort>{}) {}
  explicit Switch(std::vector<SwitchPort> members);

  // Before it is given to a worker.
  void set_ingress_rules(PortId port, std::shared_ptr<const IngressRules> rules);
  std::span<const SwitchPort> members() const { return members_; }

  // Worker. Sets packet.port of what `info.port` sends: the port of another member, or kFlood. What the
  // lane set, its uplink, stays where nothing here knows better.
  void route(WorkerId worker, const BurstInfo& info, std::span<Packet> packets) const;

  // Worker. Calls deliver(port, which) once for each port that is to hear packets of a burst that is to be
  // flooded; bit i of `which` is packets[i]. From a peer (info.port): the other bridge ports of
  // info.uplink, and the uplink itself. From the wire (info.port == kKernel): the ports of info.uplink,
  // but nobody gets its own frame back. At most kBurst packets. Returns how many copies reserved group
  // addresses (port/source_guard.h) would have made, which only trusted ports hear.
  template <typename Deliver>
  std::uint64_t flood(const BurstInfo& info, std::span<const Packet> packets, Deliver&& deliver) const;

  // The most ports that a flood by this source reaches.
  std::uint32_t audience(const BurstInfo& info) const;

 private:
  // A member's address. Open addressing, at most half full, so a probe ends after a few entries (D6).
  struct Entry {
    std::uint64_t key;  // kNoKey: empty
    PortId uplink;
    PortId port;
    SwitchMode mode;
  };
  static constexpr std::uint64_t kNoKey = ~0ull;  // a multicast address in VLAN 0xffff: nobody's

  struct Listener {
    PortId port;
    SwitchMode mode;
    std::uint16_t vlan;
    bool trusted;
  };
  struct Segment {
    PortId uplink;
    std::uint32_t first, count;  // of listeners_
    std::uint32_t bridges;       // of them
  };
  struct Sender {
    const IngressRules* rules = nullptr;
    SwitchMode mode = SwitchMode::kBridge;
    bool is_listener = false;
  };
  // Of a packet that is to be flooded.
  struct Heard {
    std::uint16_t vlan;
    SwitchMode mode;  // of the member whose address it came from ...
    PortId from;      // ... or kKernel: of none
    bool reserved;    // nothing that a bridge forwards
  };

  void add_address(const SwitchPort& member, const MacAddress& mac);
  void make_segments();
  const Entry* find(PortId uplink, std::uint64_t key) const;
  std::size_t slot_of(PortId uplink, std::uint64_t key) const;
  const Segment* segment(PortId uplink) const;
  bool somebody_else_hears(PortId uplink, const Sender& sender) const;
  void listen(const BurstInfo& info, std::span<const Packet> packets, std::span<Heard> heard) const;
  struct Copies {
    std::uint64_t which = 0;     // of the packets, a bit each
    std::uint64_t withheld = 0;  // the same: reserved, and the listener is not trusted
  };
  static Copies hears(const Listener& listener, bool from_wire, std::span<const Heard> heard);

  std::vector<SwitchPort> members_;
  std::vector<std::shared_ptr<const IngressRules>> rules_;
  std::vector<Entry> entries_;  // a power of two of them
  int shift_ = 63;              // 64 - log2(entries_)
  std::vector<Listener> listeners_;
  std::vector<Segment> segments_;
  std::array<Sender, kMaxPorts> senders_{};
};

template <typename Deliver>
std::uint64_t Switch::flood(const BurstInfo& info, std::span<const Packet> packets, Deliver&& deliver) const {
  const bool from_wire = info.port == PortId::kKernel;
  if (!from_wire && info.uplink != PortId::kDrop) {
    deliver(info.uplink, ~0ull >> (kBurst - packets.size()));
  }
  const Segment* there = segment(info.uplink);
  if (there == nullptr) {
    return 0;
  }
  std::uint64_t withheld = 0;
  std::array<Heard, kBurst> heard;
  listen(info, packets, heard);
  for (const Listener& listener : std::span(listeners_).subspan(there->first, there->count)) {
    if (listener.port == info.port) {
      continue;
    }
    const Copies copies = hears(listener, from_wire, std::span(heard).first(packets.size()));
    withheld += static_cast<std::uint64_t>(std::popcount(copies.withheld));
    if (copies.which != 0) {
      deliver(listener.port, copies.which);
    }
  }
  return withheld;
}

}  // namespace sluice
