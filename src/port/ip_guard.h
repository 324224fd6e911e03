// IpGuard: the addresses of layer 3 that a port may speak for (`source_ip`), as OVS port security and
// libvirt's clean-traffic judge them. On a private copy of a frame's front; what cannot be seen there is not
// allowed.
//
//   IPv4   its source; 0.0.0.0 only for a DHCP request (UDP 68 -> 67, whole)
//   ARP    Ethernet and IPv4 only; sender hardware address = the frame's source; sender address, or 0.0.0.0
//          in a probe (RFC 5227)
//   IPv6   its source, or the link-local address that EUI-64 makes of the port's MAC; :: only for duplicate
//          address detection, router solicitation and multicast listener reports
//   ND     the target of an advertisement, and of a solicitation from ::, is the port's own; link-layer
//          address options = the frame's source; never in fragments (RFC 6980). Router advertisements and
//          redirects only with `trust`
//   all else (RARP, MPLS, LLC, ...) is not allowed: it could carry what was refused
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/mac.h"
#include "base/result.h"

namespace sluice {

struct IpPrefix {
  std::array<std::byte, 16> address{};  // IPv4: the first four
  std::uint8_t bits = 0;
  bool v6 = false;

  // "192.0.2.5", "2001:db8::/64"
  static Result<IpPrefix> read(const std::string& text);
  bool contains(std::span<const std::byte> of) const;  // 4 or 16 bytes, as v6 says
};

class IpGuard {
 public:
  IpGuard(const std::vector<IpPrefix>& addresses, const std::vector<MacAddress>& macs, bool may_route);
  bool empty() const { return v4_.empty() && v6_.empty(); }

  struct Frame {
    const std::byte* source_mac = nullptr;  // 6 bytes
    std::uint16_t type = 0;                 // behind the tags
    std::span<const std::byte> packet;      // behind the type, as much as was copied
    bool whole = false;                     // nothing of the frame lies behind it
  };
  bool allows(const Frame& frame) const;

 private:
  using Bytes = std::span<const std::byte>;
  bool has_v4(Bytes address) const;
  bool has_v6(Bytes address) const;
  bool allows_v4(const Frame& frame) const;
  bool allows_arp(const Frame& frame) const;
  bool allows_v6(const Frame& frame) const;
  bool allows_icmp6(const Frame& frame, Bytes message, bool unspecified, bool fragment) const;
  static bool options_name_sender(const Frame& frame, Bytes options);

  std::vector<IpPrefix> v4_, v6_;
  bool may_route_;
};

}  // namespace sluice
