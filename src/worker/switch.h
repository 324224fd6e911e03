// Switch: where a frame goes that a guest, an app or the host sends; and who gets a flooded one.
//
// Made by the control thread, given to every worker as a table that never changes: a new one replaces it
// inside Worker::call(). The modes are macvtap's (ip-link(8), macvlan):
//
//   bridge    frames for another bridge port of the same uplink are delivered here; the rest leaves by the uplink
//   vepa      every frame leaves by the uplink; an external switch sends back what is for another local port
//   private   as vepa, and what comes back from a local port is not delivered either
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/mac.h"
#include "port/port.h"

namespace sluice {

enum class SwitchMode : std::uint8_t { kBridge, kVepa, kPrivate };

// A port that has addresses of its own. `uplink` is a NIC's port, or kDrop: ports without an uplink form one
// switch of their own.
struct SwitchMember {
  PortId port{0};
  PortId uplink = PortId::kDrop;
  SwitchMode mode = SwitchMode::kBridge;
  std::uint16_t vlan = 0;  // access VLAN; frames on the switch carry the tag, so 0 means untagged
  std::vector<MacAddress> macs;
};

// A flow of a port that rules lead elsewhere, ahead of the addresses (`[[rule]] port = "vm0"`). Returns the
// port, or none for "as the addresses say". Worker thread; pure.
class FlowRules {
 public:
  virtual ~FlowRules() = default;
  // Rewrites packet.port (and packet.rule) of those that a rule matches and sets its bit in the result, bit i
  // for packet i; at most 64 packets.
  virtual std::uint64_t steer(std::span<Packet> packets) const = 0;
};

class Switch {
 public:
  Switch() = default;
  explicit Switch(std::vector<SwitchMember> members);

  void set_flow_rules(PortId port, std::shared_ptr<const FlowRules> rules);

  // Worker. Fills packet.port of frames that `source.port` sends; what the lane set (its uplink) stays where
  // nothing here knows better. Multicast becomes PortId::kFlood.
  void route(const Source& source, std::span<Packet> packets) const;

  // Worker. Whether a flooded packet that came from `source` is for `member`; the wire is a source too
  // (source.port == kKernel, source.nic's uplink port in packet.port's place: see flood_targets()).
  // Calls `deliver(port, packets)` for each destination; the packets may be reordered between calls.
  void flood(const Source& source, std::span<Packet> packets,
             const std::function<void(PortId, std::span<Packet>)>& deliver) const;

  std::span<const SwitchMember> members() const { return members_; }

 private:
  std::vector<SwitchMember> members_;
  std::vector<std::pair<PortId, std::shared_ptr<const FlowRules>>> rules_;
};

}  // namespace sluice
