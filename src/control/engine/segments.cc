#include "control/engine/segments.h"

#include <algorithm>

namespace sluice {

Result<SegmentPort> segment_port(const PortConfig& config, const PortTraits& traits, PortId id,
                                 const std::optional<UplinkNic>& uplink) {
  SegmentPort port;
  port.on_switch = {
      .port = id, .mode = traits.mode, .vlan = config.vlan, .trusted = traits.trusted, .macs = config.mac};
  port.judges_tags = traits.judges_tags;
  if (!uplink) {
    return port;
  }
  if (std::ranges::find(config.mac, uplink->mac) != config.mac.end()) {
    return fail("its address {} is that of its uplink {}, whose packets are the kernel's; choose another",
                mac_text(uplink->mac), uplink->netdev);
  }
  port.uplink = uplink->netdev;
  port.on_switch.uplink = uplink->port;
  return port;
}

// Untagged frames are a port's without a VLAN, and of others only those that it is trusted to judge by
// itself.
Segments make_segments(const std::map<std::string, SegmentPort>& ports) {
  Segments segments;
  for (const auto& [name, port] : ports) {
    segments.ports.push_back(port.on_switch);
    if (!port.uplink) {
      continue;
    }
    Segments::BehindNic& nic = segments.by_netdev[*port.uplink];
    for (const MacAddress& mac : port.on_switch.macs) {
      const bool any_vlan = port.on_switch.vlan == 0 && port.judges_tags;
      RuleConfig& rule = nic.rules.emplace_back();
      rule.nic = *port.uplink;
      rule.match =
          "dst_mac " + mac_text(mac) + (any_vlan ? "" : fmt::format(" vlan_id {}", port.on_switch.vlan));
      rule.to = name;
      nic.macs.push_back(mac);
    }
  }
  return segments;
}

std::unique_ptr<const Switch> make_switch(const Segments& segments, const IngressRulesByPort& rules) {
  if (segments.ports.empty() && rules.empty()) {
    return nullptr;
  }
  auto made = std::make_unique<Switch>(segments.ports);
  for (const auto& [port, ingress] : rules) {
    made->set_ingress_rules(port, ingress);
  }
  return made;
}

}  // namespace sluice
