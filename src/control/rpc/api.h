// The methods of the control socket: their names, and the JSON of their parameters and results.
// docs/control.md shows each.
//
// Numbers are integers; a counters object maps the names that CounterVisitor is called with to their values.
//
//   show.nics      [{"name": "eth1", "ifindex": 3, "driver": "veth", "mac": "52:54:00:00:00:01", "mtu": 1500,
//                    "link": true, "mode": "native"|"generic",
//                    "af_xdp": "zerocopy"|"copy"|"mixed"|null, "queues": [0, 1], "counters": {..}}]
//   show.queues    [{"nic": "eth1", "queue": 0, "owner": "host"|PORT, "worker": 0,
//                    "state": "opening"|"open"|"closing"|"failed", "why": "the kernel has .."|null,
//                    "state_ms": 12, "mode": "zerocopy"|"copy"|null, "counters": {..}}]
//                  One row per queue; "mode" is null, and most counters are missing, while it is not open.
//   show.ports     [{"name": "dns", "type": "app"|"guest"|"tap", "id": 2, "state": "attached"|"detached"
//                    (guest: as show.guests; tap: "up"|"down"), "client": "dnsd"|null, "pid": 4711|null,
//                    "uid": 103|null, "pages_held": 12|null, "page_limit": 4096|null, "uplink": "eth1"|null,
//                    "queues": ["eth1:1"], "counters": {..}}]
//                  Also "busy_us": what it cost the workers, "busy_us_by_worker": [..], "service":
//                  "served"|"throttled" (docs/worker.md), "descriptors": how many it has now. An app and a
//                  guest also have "wakes": "direct"|"by waker", who wakes it.
//                  "mac": [..]. "uplink" is null for what cannot send, as an app without "mac".
//                  A guest and a tap also have "vlan", "mode": "bridge"|"vepa"|"private"; a tap also
//                  "netdev".
//   show.guests    [{"name": "vm0", "id": 3, "state": "waiting"|"populating"|"connected"|
//                    "running"|"broken"|"stuck", "pid": 4711|null,
//                    "uid": 0|null, "connected_ms": 1000|null, "socket": "/run/sluice/vm0.sock",
//                    "role": "server"|"client", "uplink", "mac", "vlan", "mode", "trust", "queue_pairs": 4,
//                    "calls": "aio"|"write", "features": ["VIRTIO_F_VERSION_1"],
//                    "feature_bits": "0x100000000", "protocol_features", "protocol_feature_bits",
//                    "memory": {"bytes", "mapped_bytes", "limit_bytes", "sealed", "populate",
//                    "populated_bytes"}, "regions": [{"guest_address": "0x0", "bytes",
//                    "huge_pages"}], "rings": [{"index": 0, "kind": "rx"|"tx", "format": "split"|"packed",
//                    "entries", "enabled", "running", "broken", "worker", "packets", "kicks", "calls",
//                    "calls_suppressed"}], "counters": {..}}]
//                  `kind` as the guest sees it. "broken": the guest put into a ring what no driver may.
//                  "stuck": a worker does not come to take changes of its rings. `mapped_bytes` counts what
//                  is being unmapped too. `calls`: how the guest was interrupted last.
//   show.rules     [{"id": 7, "nic": "eth1", "port": "", "match": "ip_proto udp dst_port 53", "to": "dns",
//                    "priority": 100, "shed": false, "implicit": false, "packets": 10, "bytes": 640}]
//                  `id` is the rule's slot on that NIC; a rule on what a port sends has a "port" and "nic":
//                  "", and its id is the port's. A rule for every NIC is listed once per NIC. Implicit:
//                  stands for the address of a port behind the NIC, after all others.
//   show.pools     [{"name": "eth1:0", "domain": "host"|PORT, "counters": {..}}]
//   show.counters  {"nic.eth1.rx_packets": 1, "port.dns.copied": 2, ..}: all counters there are, flat
//   show.config    {"file": "/etc/sluice.toml"|null, "toml": ".."}: the running state; reload goes back to
//                  the file's
//
//   rule.add       {"match": .., "to": .., "nic"?, "port"?, "priority"?, "shed"?} -> {"warnings": [..]}
//   rule.del       {"nic"? or "port"?, "match": .., "to"?, "priority"?} or {"nic" or "port": .., "id": ..}
//                  -> {"removed": RULE}
//                  A rule for every NIC is removed as a whole. More than one rule that fits: an error.
//   port.add       {"name": .., "type": .., and the other keys of [port.NAME]} -> {"warnings": [..]}
//   port.del       {"name": ..} -> {}; an error while a rule leads to it or stands on what it sends
//   reload         {} -> {"actions": ["add port dns", ..], "warnings": [..]}
//   version        {} -> {"version": "0.2.0", "app_abi": 2}
#pragma once

#include <array>
#include <string_view>

namespace sluice::api {

inline constexpr std::string_view kShowNics = "show.nics";
inline constexpr std::string_view kShowQueues = "show.queues";
inline constexpr std::string_view kShowPorts = "show.ports";
inline constexpr std::string_view kShowGuests = "show.guests";
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
