// Segments: which ports hear each other, and how the wire's packets find them. Pure: from the ports that run
// and the NICs they stand behind to the workers' switch and to rules for each NIC.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/mac.h"
#include "base/result.h"
#include "control/config/config.h"
#include "control/port_types/port_type.h"
#include "worker/forward/switch.h"

namespace sluice {

// A port with addresses of its own.
struct SegmentPort {
  SwitchPort on_switch;
  std::optional<std::string> uplink;  // netdev; none: one segment for all ports without
  bool judges_tags = false;           // PortTraits::judges_tags
};

// The NIC that a port is to stand behind.
struct UplinkNic {
  std::string netdev;
  PortId port{0};
  MacAddress mac{};
};

// Errors: one of its addresses is the NIC's, whose packets are the kernel's.
Result<SegmentPort> segment_port(const PortConfig& config, const PortTraits& traits, PortId id,
                                 const std::optional<UplinkNic>& uplink);

struct Segments {
  std::vector<SwitchPort> ports;  // of all segments
  struct BehindNic {
    std::vector<RuleConfig> rules;  // what is for its ports' addresses is theirs
    std::vector<MacAddress> macs;   // which the NIC takes in
  };
  std::map<std::string, BehindNic> by_netdev;  // of NICs with ports behind them

  BehindNic behind(const std::string& netdev) const {
    auto found = by_netdev.find(netdev);
    return found == by_netdev.end() ? BehindNic{} : found->second;
  }
};

Segments make_segments(const std::map<std::string, SegmentPort>& ports);  // by name

// Null: nobody is on it, and no port has rules on what it sends.
using IngressRulesByPort = std::map<PortId, std::shared_ptr<const IngressRules>>;
std::unique_ptr<const Switch> make_switch(const Segments& segments, const IngressRulesByPort& rules);

}  // namespace sluice
