// Configs that several tests begin with.
#pragma once

#include <string_view>

namespace sluice {

// Members of the switch behind one of two NICs: a guest and a tap.
inline constexpr std::string_view kSwitchPorts = R"([nic.eth1]
[nic.eth2]
[port.vm0]
type = "guest"
socket = "/vm0"
mac = "52:54:00:00:00:01"
uplink = "eth1"
[port.host0]
type = "tap"
netdev = "sluice0"
mac = "52:54:00:00:00:02"
uplink = "eth1"
)";

}  // namespace sluice
