// The methods of the control socket: their names, and the JSON of their parameters and results.
// docs/control.md shows each.
//
// Numbers are integers; a counters object maps the names that CounterVisitor is called with to their values.
//
//   show.nics      [{"name": "eth1", "ifindex": 3, "driver": "veth", "mac": "52:54:00:00:00:01", "mtu": 1500,
//                    "link": true, "mode": "native"|"generic", "queues": [0, 1], "counters": {..}}]
//   show.queues    [{"nic": "eth1", "queue": 0, "owner": "host"|PORT, "worker": 0, "mode": "zerocopy"|"copy",
//                    "counters": {..}}]
//   show.ports     [{"name": "dns", "type": "app", "id": 2, "state": "attached"|"detached", "client":
//   "dnsd"|null,
//                    "pid": 4711|null, "uid": 103|null, "pages_held": 12, "page_limit": 4096, "uplink":
//                    "eth1"|null, "queues": ["eth1:1"], "counters": {..}}]
//   show.rules     [{"id": 7, "nic": "eth1", "match": "ip_proto udp dst_port 53", "to": "dns", "priority":
//   100,
//                    "shed": false, "packets": 10, "bytes": 640}]
//                  `id` is the rule's slot on that NIC. A rule for every NIC is listed once per NIC.
//   show.pools     [{"name": "eth1:0", "domain": "host"|PORT, "counters": {..}}]
//   show.counters  {"nic.eth1.rx_packets": 1, "port.dns.copied": 2, ..}: all counters there are, flat
//   show.config    {"file": "/etc/sluice.toml"|null, "toml": ".."}: the running state; reload goes back to
//   the file's
//
//   rule.add       {"match": .., "to": .., "nic"?, "priority"?, "shed"?} -> {"warnings": [..]}
//   rule.del       {"nic"?, "match": .., "to"?, "priority"?} or {"nic": .., "id": ..} -> {"removed": RULE}
//                  A rule for every NIC is removed as a whole. More than one rule that fits: an error.
//   port.add       {"name": .., "type": "app", "socket": .., and the other keys of [port.NAME]} ->
//   {"warnings": [..]} port.del       {"name": ..} -> {}; an error while a rule leads to it reload         {}
//   -> {"actions": ["add port dns", ..], "warnings": [..]} version        {} -> {"version": "0.1.0",
//   "app_abi": 1}
#pragma once

#include <array>
#include <string_view>

namespace sluice::api {

inline constexpr std::string_view kShowNics = "show.nics";
inline constexpr std::string_view kShowQueues = "show.queues";
inline constexpr std::string_view kShowPorts = "show.ports";
inline constexpr std::string_view kShowRules = "show.rules";
inline constexpr std::string_view kShowPools = "show.pools";
inline constexpr std::string_view kShowCounters = "show.counters";
inline constexpr std::string_view kShowConfig = "show.config";
inline constexpr std::string_view kRuleAdd = "rule.add";
inline constexpr std::string_view kRuleDel = "rule.del";
inline constexpr std::string_view kPortAdd = "port.add";
inline constexpr std::string_view kPortDel = "port.del";
inline constexpr std::string_view kReload = "reload";
inline constexpr std::string_view kVersion = "version";

}  // namespace sluice::api
