// Rule: match -> port. The words of a match are those of tc-flower and iproute2.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/ids.h"
#include "base/result.h"

namespace sluice {

inline constexpr std::uint32_t kMaxRules = 65536;  // per NIC

struct PortRange {
  std::uint16_t low = 0;
  std::uint16_t high = 65535;
  bool operator==(const PortRange&) const = default;
};

struct MacMatch {
  std::array<std::uint8_t, 6> value{};
  std::array<std::uint8_t, 6> mask{};  // all ones unless written VALUE/MASK
  bool operator==(const MacMatch&) const = default;
};

struct IpMatch {
  bool v6 = false;
  std::array<std::uint8_t, 16> value{};  // IPv4 in the first 4 bytes
  std::uint8_t prefix = 0;               // 0 .. 32 or 128
  bool operator==(const IpMatch&) const = default;
};

// Absent means "any". `dst_port` and `src_port` match TCP, UDP and SCTP only, never fragments.
struct Match {
  std::optional<MacMatch> dst_mac, src_mac;
  std::optional<std::uint16_t>
      vlan_id;  // 0 .. 4095, the outer tag; 0 matches untagged and priority-tagged frames
  std::optional<std::uint16_t> eth_type;  // behind the tags
  std::optional<std::uint8_t> ip_proto;
  std::optional<IpMatch> src_ip, dst_ip;
  std::optional<PortRange> src_port, dst_port;
  bool operator==(const Match&) const = default;
};

// "ip_proto udp dst_port 53", "src_ip 10.0.0.0/8 dst_port 1000-2000", "" (everything).
// Protocols and EtherTypes by name (tcp udp icmp icmpv6 sctp; ip ipv6 arp) or number. Errors name the word.
Result<Match> parse_match(std::string_view text);
std::string to_string(const Match& match);

struct Rule {
  Match match;
  PortId port = PortId::kKernel;
  std::int64_t priority = 0;  // higher wins; equal: the lower slot wins
  bool shed = false;          // dropped by XDP while `port` is under pressure
  RuleSlot slot{0};           // 0 .. kMaxRules - 1, unique per NIC, the index of its counters
};

}  // namespace sluice
