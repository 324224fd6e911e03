// For tests: random rules and random frames over few values, so that they meet often.
#pragma once

#include <random>
#include <vector>

#include "demux/packet_builder.h"
#include "demux/rule.h"

namespace sluice::testing {

class RandomTraffic {
 public:
  explicit RandomTraffic(std::uint32_t seed) : random_(seed) {}

  std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(random_() % n); }
  bool one_in(std::uint32_t n) { return below(n) == 0; }

  // `shapes` limits how many combinations of words there are.
  std::vector<Rule> rules(std::uint32_t count, std::uint32_t shapes) {
    std::vector<std::uint32_t> forms(shapes);
    for (auto& form : forms) {
      form = static_cast<std::uint32_t>(random_());
    }
    std::vector<Rule> rules;
    for (std::uint32_t i = 0; i < count; ++i) {
      rules.push_back({.match = match(forms[below(shapes)]),
                       .port = PortId{static_cast<std::uint16_t>(below(1024))},
                       .priority = static_cast<std::int32_t>(below(7)) - 3,
                       .shed = one_in(2),
                       .slot = RuleSlot{i * 7919 % 65536}});
    }
    return rules;
  }

  Bytes frame() {
    PacketBuilder packet;
    packet.macs(mac(), mac());
    for (std::uint32_t tags = one_in(2) ? 0 : below(4); tags > 0; --tags) {
      packet.tag(static_cast<std::uint16_t>(below(4)), one_in(2) ? 0x8100 : 0x88a8);
    }
    switch (below(8)) {
      case 0:
        packet.type(eth_type()).payload(below(40));
        break;
      case 1:
      case 2:
      case 3:
        packet.ipv6(v6(), v6());
        for (std::uint32_t headers = one_in(2) ? 0 : below(10); headers > 0; --headers) {
          constexpr std::uint8_t kHeaders[] = {0, 43, 60, 135, 51};
          packet.extension(kHeaders[below(5)], 8 * (1 + below(3)));
        }
        if (one_in(4)) {
          packet.fragment(static_cast<std::uint16_t>(one_in(2) ? 1 : below(65536)));
        }
        transport(packet);
        break;
      default:
        packet.ipv4(v4(), v4(), one_in(3) ? 4 * below(11) : 0,
                    one_in(5) ? static_cast<std::uint16_t>(random_()) : 0);
        transport(packet);
    }
    Bytes bytes = packet.build(one_in(3) ? 60 : 0);
    if (one_in(8) && !bytes.empty()) {
      bytes.resize(below(static_cast<std::uint32_t>(bytes.size())));
    }
    if (one_in(8) && bytes.size() > 12) {  // a flipped bit behind the addresses
      auto at = 12 + below(static_cast<std::uint32_t>(bytes.size()) - 12);
      bytes[at] = static_cast<std::uint8_t>(bytes[at] ^ 1u << below(8));
    }
    return bytes;
  }

 private:
  std::array<std::uint8_t, 6> mac() { return {2, 0, 0, 0, 0, static_cast<std::uint8_t>(below(3))}; }
  std::uint16_t eth_type() {
    constexpr std::uint16_t kTypes[] = {0x0800, 0x0806, 0x86dd, 0x8100, 0x88cc};
    return kTypes[below(5)];
  }
  std::uint8_t proto() {
    constexpr std::uint8_t kProtocols[] = {6, 17, 132, 1, 58, 0, 47};
    return kProtocols[below(7)];
  }
  std::uint16_t port() { return static_cast<std::uint16_t>(one_in(8) ? below(65536) : below(20)); }
  const char* v4() {
    constexpr const char* kAddresses[] = {"10.0.0.1", "10.0.0.2", "10.0.1.1", "10.128.0.1", "0.0.0.0"};
    return kAddresses[below(5)];
  }
  const char* v6() {
    constexpr const char* kAddresses[] = {"2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "fe80::1", "::"};
    return kAddresses[below(5)];
  }
  IpMatch ip(bool v6_address, std::uint32_t form) {
    IpMatch match{.v6 = v6_address};
    ::inet_pton(v6_address ? AF_INET6 : AF_INET, v6_address ? v6() : v4(), match.value.data());
    constexpr std::uint8_t kShort[] = {0, 8, 24, 32};
    constexpr std::uint8_t kLong[] = {0, 32, 64, 128};
    match.prefix = v6_address ? kLong[form & 3] : kShort[form & 3];
    return match;
  }
  PortRange ports(bool range) {
    std::uint16_t low = port();
    std::uint16_t high = range ? static_cast<std::uint16_t>(std::min(65535u, low + below(9))) : low;
    return range && one_in(8) ? PortRange{} : PortRange{low, high};
  }
  Match match(std::uint32_t form) {
    Match match;
    auto take = [&form] {  // one rule word in four is set
      bool set = (form & 3) == 0;
      form = form >> 2 | form << 30;
      return set;
    };
    bool v6_address = (form >> 31) != 0;
    if (take()) match.dst_mac = MacMatch{mac(), {255, 255, 255, 255, 255, 255}};
    if (take())
      match.src_mac = MacMatch{mac(), {255, 255, 255, 255, 255, static_cast<std::uint8_t>(form & 1)}};
    if (take()) match.vlan_id = static_cast<std::uint16_t>(below(4));
    if (take()) match.eth_type = eth_type();
    if (take()) match.ip_proto = proto();
    if (take()) match.src_ip = ip(v6_address, form);
    if (take()) match.dst_ip = ip(v6_address, form >> 4);
    if (take()) match.src_port = ports((form & 4) != 0);
    if (take()) match.dst_port = ports((form & 8) != 0);
    return match;
  }
  void transport(PacketBuilder& packet) {
    switch (below(5)) {
      case 0:
        packet.tcp(port(), port());
        break;
      case 1:
        packet.sctp(port(), port());
        break;
      case 2:
        packet.proto(proto()).payload(below(30));
        break;
      default:
        packet.udp(port(), port());
    }
    packet.payload(below(20));
  }
  std::mt19937 random_;
};

}  // namespace sluice::testing
