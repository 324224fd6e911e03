#include "port/ip_guard.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "port/vlan.h"

namespace sluice {

namespace {

constexpr std::uint16_t kTypeIpv4 = 0x0800, kTypeArp = 0x0806, kTypeIpv6 = 0x86dd;
constexpr std::byte kUdp{17}, kIcmp6{58}, kFragment{44};
constexpr std::size_t kIpv4Header = 20, kIpv6Header = 40, kArpBytes = 28, kFragmentHeader = 8;
constexpr int kMostExtensions = 8;  // as the demux follows (abi/demux.h)
constexpr std::byte kLinkLayerSource{1}, kLinkLayerTarget{2};

// ICMPv6 (RFC 4861, RFC 2710, RFC 3810).
enum Icmp6 : std::uint8_t {
  kListenerQuery = 130,
  kListenerReport = 131,
  kListenerDone = 132,
  kRouterSolicitation = 133,
  kRouterAdvertisement = 134,
  kNeighbourSolicitation = 135,
  kNeighbourAdvertisement = 136,
  kRedirect = 137,
  kListenerReportV2 = 143
};

bool all_zero(std::span<const std::byte> bytes) {
  return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; });
}

bool is_extension(std::byte header) {
  switch (std::to_integer<int>(header)) {
    case 0:    // hop by hop
    case 43:   // routing
    case 51:   // authentication
    case 60:   // destination options
    case 135:  // mobility
    case 139:  // HIP
    case 140:  // shim6
      return true;
    default:
      return false;
  }
}

std::size_t extension_bytes(std::byte header, std::byte length) {
  const auto units = std::to_integer<std::size_t>(length);
  return header == std::byte{51} ? (units + 2) * 4 : (units + 1) * 8;
}

// fe80::, then the MAC with ff:fe in its middle and the U/L bit turned (RFC 4291, appendix A).
IpPrefix link_local_of(const MacAddress& mac) {
  IpPrefix prefix{.address = {}, .bits = 128, .v6 = true};
  const std::array<int, 16> bytes{0xfe,       0x80,   0,      0,    0,    0,      0,      0,
                                  mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]};
  std::ranges::transform(bytes, prefix.address.begin(),
                         [](int byte) { return static_cast<std::byte>(byte); });
  return prefix;
}

}  // namespace

Result<IpPrefix> IpPrefix::read(const std::string& text) {
  const std::size_t slash = text.find('/');
  const std::string address = text.substr(0, slash);
  IpPrefix prefix;
  if (::inet_pton(AF_INET, address.c_str(), prefix.address.data()) == 1) {
    prefix.bits = 32;
  } else if (::inet_pton(AF_INET6, address.c_str(), prefix.address.data()) == 1) {
    prefix.bits = 128;
    prefix.v6 = true;
  } else {
    return fail("\"{}\" is no IP address", text);
  }
  if (slash != std::string::npos) {
    std::uint32_t bits = 0;
    const char* end = text.data() + text.size();
    const auto read = std::from_chars(text.data() + slash + 1, end, bits);
    if (read.ec != std::errc{} || read.ptr != end || bits > prefix.bits) {
      return fail("\"{}\" has no prefix length of 0 to {}", text, prefix.bits);
    }
    prefix.bits = static_cast<std::uint8_t>(bits);
  }
  return prefix;
}

bool IpPrefix::contains(std::span<const std::byte> of) const {
  const std::size_t bytes = bits / 8;
  if (std::memcmp(of.data(), address.data(), bytes) != 0) {
    return false;
  }
  const int rest = bits % 8;
  return rest == 0 || std::to_integer<int>(of[bytes] ^ address[bytes]) >> (8 - rest) == 0;
}

IpGuard::IpGuard(const std::vector<IpPrefix>& addresses, const std::vector<MacAddress>& macs, bool may_route)
    : may_route_(may_route) {
  for (const IpPrefix& prefix : addresses) {
    (prefix.v6 ? v6_ : v4_).push_back(prefix);
  }
  if (!v6_.empty()) {
    std::ranges::transform(macs, std::back_inserter(v6_), link_local_of);
  }
}

bool IpGuard::has_v4(Bytes address) const {
  return std::ranges::any_of(v4_, [&](const IpPrefix& prefix) { return prefix.contains(address); });
}

bool IpGuard::has_v6(Bytes address) const {
  return std::ranges::any_of(v6_, [&](const IpPrefix& prefix) { return prefix.contains(address); });
}

bool IpGuard::allows(const Frame& frame) const {
  switch (frame.type) {
    case kTypeIpv4:
      return allows_v4(frame);
    case kTypeArp:
      return allows_arp(frame);
    case kTypeIpv6:
      return allows_v6(frame);
    default:
      return false;
  }
}

bool IpGuard::allows_v4(const Frame& frame) const {
  const Bytes ip = frame.packet;
  if (v4_.empty() || ip.size() < kIpv4Header || (ip[0] >> 4) != std::byte{4}) {
    return false;
  }
  const std::size_t header = std::to_integer<std::size_t>(ip[0] & std::byte{15}) * 4;
  const Bytes source = ip.subspan(12, 4);
  if (header < kIpv4Header) {
    return false;
  }
  if (!all_zero(source)) {
    return has_v4(source);
  }
  const bool fragment = (load_be16(ip.data() + 6) & 0x3fff) != 0;
  return !fragment && ip[9] == kUdp && ip.size() >= header + 4 && load_be16(ip.data() + header) == 68 &&
         load_be16(ip.data() + header + 2) == 67;
}

bool IpGuard::allows_arp(const Frame& frame) const {
  const Bytes arp = frame.packet;
  if (v4_.empty() || arp.size() < kArpBytes) {
    return false;
  }
  const bool ethernet_ipv4 = load_be16(arp.data()) == 1 && load_be16(arp.data() + 2) == kTypeIpv4 &&
                             arp[4] == std::byte{6} && arp[5] == std::byte{4};
  if (!ethernet_ipv4 || std::memcmp(arp.data() + 8, frame.source_mac, 6) != 0) {
    return false;
  }
  const Bytes sender = arp.subspan(14, 4);
  const bool request = load_be16(arp.data() + 6) == 1;
  return all_zero(sender) ? request : has_v4(sender);
}

bool IpGuard::allows_v6(const Frame& frame) const {
  const Bytes ip = frame.packet;
  if (v6_.empty() || ip.size() < kIpv6Header || (ip[0] >> 4) != std::byte{6}) {
    return false;
  }
  const Bytes source = ip.subspan(8, 16);
  const bool unspecified = all_zero(source);
  if (!unspecified && !has_v6(source)) {
    return false;
  }
  std::byte next = ip[6];
  Bytes rest = ip.subspan(kIpv6Header);
  bool fragment = false;
  for (int headers = 0; is_extension(next) || next == kFragment; ++headers) {
    if (headers == kMostExtensions || rest.size() < kFragmentHeader) {
      return false;
    }
    if (next == kFragment) {
      if (load_be16(rest.data() + 2) >> 3 != 0) {
        return !unspecified;  // not the first: what it continues was judged, and has its whole header chain
      }
      fragment = true;
    }
    const std::size_t bytes = next == kFragment ? kFragmentHeader : extension_bytes(next, rest[1]);
    if (rest.size() < bytes) {
      return false;
    }
    next = rest[0];
    rest = rest.subspan(bytes);
  }
  return next == kIcmp6 ? allows_icmp6(frame, rest, unspecified, fragment) : !unspecified;
}

bool IpGuard::allows_icmp6(const Frame& frame, Bytes message, bool unspecified, bool fragment) const {
  if (message.empty()) {
    return false;
  }
  const auto type = std::to_integer<std::uint8_t>(message[0]);
  if (type < kRouterSolicitation || type > kRedirect) {
    const bool report = type == kListenerReport || type == kListenerDone || type == kListenerReportV2;
    return !unspecified || report;
  }
  if (fragment || !frame.whole) {
    return false;
  }
  if (type == kRouterSolicitation) {
    return message.size() >= 8 && options_name_sender(frame, message.subspan(8));
  }
  if (type == kRouterAdvertisement || type == kRedirect) {
    return may_route_ && !unspecified;
  }
  if (message.size() < 24) {
    return false;
  }
  const bool speaks_for_target = type == kNeighbourAdvertisement || unspecified;
  if (speaks_for_target && !has_v6(message.subspan(8, 16))) {
    return false;
  }
  return (type == kNeighbourSolicitation || !unspecified) && options_name_sender(frame, message.subspan(24));
}

// Every option is looked at: a second one of a kind may be the one that the receiver takes.
bool IpGuard::options_name_sender(const Frame& frame, Bytes options) {
  while (options.size() >= 8) {  // each round takes at least 8 bytes of at most kMaxHead
    const std::size_t bytes = std::to_integer<std::size_t>(options[1]) * 8;
    if (bytes == 0 || bytes > options.size()) {
      return false;
    }
    const bool link_layer = options[0] == kLinkLayerSource || options[0] == kLinkLayerTarget;
    if (link_layer && std::memcmp(options.data() + 2, frame.source_mac, 6) != 0) {
      return false;
    }
    options = options.subspan(bytes);
  }
  return true;
}

}  // namespace sluice
