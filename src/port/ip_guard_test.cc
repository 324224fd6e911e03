#include "port/ip_guard.h"

#include <gtest/gtest.h>

#include <cstring>
#include <initializer_list>
#include <vector>

#include "port/vlan.h"

namespace sluice {
namespace {

using Bytes = std::vector<std::byte>;

constexpr MacAddress kMac{0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
constexpr const char* kOwn4 = "192.0.2.5";
constexpr const char* kOwn6 = "2001:db8::5";
constexpr const char* kLinkLocal = "fe80::5054:ff:fe12:3456";  // EUI-64 of kMac
constexpr std::uint16_t kIpv4 = 0x0800, kArp = 0x0806, kIpv6 = 0x86dd;

Bytes bytes_of(std::initializer_list<int> values) {
  Bytes bytes;
  for (int value : values) {
    bytes.push_back(static_cast<std::byte>(value));
  }
  return bytes;
}
Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
Bytes address(const std::string& text) {
  const IpPrefix prefix = IpPrefix::read(text).value();
  return {prefix.address.begin(), prefix.address.begin() + (prefix.v6 ? 16 : 4)};
}
Bytes mac_bytes(const MacAddress& mac) {
  Bytes bytes(6);
  std::memcpy(bytes.data(), mac.data(), 6);
  return bytes;
}

Bytes ipv4(const std::string& source, int protocol, const Bytes& payload, std::uint16_t fragment = 0) {
  return bytes_of({0x45, 0, 0, 0, 0, 0, fragment >> 8, fragment & 0xff, 64, protocol, 0, 0}) +
         address(source) + address("198.51.100.1") + payload;
}
Bytes udp(std::uint16_t from, std::uint16_t to) {
  return bytes_of({from >> 8, from & 0xff, to >> 8, to & 0xff, 0, 8, 0, 0});
}
Bytes arp(const MacAddress& hardware, const std::string& sender, int operation = 1) {
  return bytes_of({0, 1, 8, 0, 6, 4, 0, operation}) + mac_bytes(hardware) + address(sender) + Bytes(6) +
         address("192.0.2.1");
}
Bytes ipv6(const std::string& source, int next, const Bytes& payload) {
  return bytes_of({0x60, 0, 0, 0, 0, 0, next, 255}) + address(source) + address("ff02::1") + payload;
}
Bytes option(int kind, const MacAddress& mac) {
  return bytes_of({kind, 1}) + mac_bytes(mac);
}
// Neighbour solicitation 135, advertisement 136.
Bytes neighbour(int type, const std::string& target, const Bytes& options = {}) {
  return bytes_of({type, 0, 0, 0, 0, 0, 0, 0}) + address(target) + options;
}
Bytes extension(int next, int units = 0) {
  return bytes_of({next, units}) + Bytes(6 + 8 * static_cast<std::size_t>(units));
}
Bytes fragment_header(int next, int offset, bool more) {
  const int word = offset << 3 | (more ? 1 : 0);
  return bytes_of({next, 0, word >> 8, word & 0xff, 0, 0, 0, 1});
}

constexpr MacAddress kOtherMac{0x52, 0x54, 0x00, 0x99, 0x99, 0x99};

class IpGuardTest : public ::testing::Test {
 protected:
  IpGuardTest() : guard_(make({kOwn4, kOwn6, "198.18.0.0/15", "2001:db8:1::/52"})) {}
  static IpGuard make(std::initializer_list<const char*> addresses, bool may_route = false) {
    std::vector<IpPrefix> prefixes;
    for (const char* text : addresses) {
      prefixes.push_back(IpPrefix::read(text).value());
    }
    return IpGuard(prefixes, {kMac}, may_route);
  }
  bool allows(std::uint16_t type, const Bytes& packet, bool whole = true) {
    return allows(guard_, type, packet, whole);
  }
  static bool allows(const IpGuard& guard, std::uint16_t type, const Bytes& packet, bool whole = true) {
    const Bytes source = mac_bytes(kMac);
    const std::size_t seen = std::min<std::size_t>(packet.size(), 114);
    return guard.allows({.source_mac = source.data(),
                         .type = type,
                         .packet = std::span(packet).first(seen),
                         .whole = whole && seen == packet.size()});
  }
  IpGuard guard_;
};

TEST_F(IpGuardTest, ItsOwnAddressesAndPrefixesPass) {
  for (const char* own : {kOwn4, "198.18.0.0", "198.19.255.255"}) {
    EXPECT_TRUE(allows(kIpv4, ipv4(own, 6, Bytes(20)))) << own;
    EXPECT_TRUE(allows(kArp, arp(kMac, own))) << own;
    EXPECT_TRUE(allows(kArp, arp(kMac, own, 2))) << own;
  }
  for (const char* own : {kOwn6, "2001:db8:1::1", "2001:db8:1:fff:ffff::1", kLinkLocal}) {
    EXPECT_TRUE(allows(kIpv6, ipv6(own, 6, Bytes(20)))) << own;
    EXPECT_TRUE(allows(kIpv6, ipv6(own, 58, bytes_of({128, 0, 0, 0, 0, 0, 0, 0})))) << own;
    EXPECT_TRUE(allows(kIpv6, ipv6(own, 58, neighbour(135, "2001:db8::1", option(1, kMac))))) << own;
    EXPECT_TRUE(allows(kIpv6, ipv6(own, 58, neighbour(136, own, option(2, kMac))))) << own;
  }
  EXPECT_TRUE(allows(kIpv4, ipv4(kOwn4, 17, Bytes(1400), 0x2000), false)) << "fragments name their source";
  EXPECT_TRUE(allows(kIpv6, ipv6(kOwn6, 44, fragment_header(17, 0, true) + Bytes(1200)), false));
  EXPECT_TRUE(allows(kIpv6, ipv6(kOwn6, 44, fragment_header(58, 100, false) + Bytes(600)), false));
}

TEST_F(IpGuardTest, WhatAHostSaysBeforeItHasAnAddressPasses) {
  EXPECT_TRUE(allows(kIpv4, ipv4("0.0.0.0", 17, udp(68, 67) + Bytes(300)), false)) << "DHCP";
  EXPECT_TRUE(allows(kArp, arp(kMac, "0.0.0.0"))) << "an address probe";
  EXPECT_TRUE(allows(kIpv6, ipv6("::", 58, neighbour(135, kOwn6)))) << "duplicate address detection";
  EXPECT_TRUE(allows(kIpv6, ipv6("::", 58, neighbour(135, kLinkLocal))));
  EXPECT_TRUE(allows(kIpv6, ipv6("::", 58, bytes_of({133, 0, 0, 0, 0, 0, 0, 0})))) << "router solicitation";
  EXPECT_TRUE(allows(kIpv6, ipv6("::", 0, extension(58) + bytes_of({143, 0, 0, 0, 0, 0, 0, 0})))) << "MLD";
}

TEST_F(IpGuardTest, Malicious_AnothersAddressDoesNotPass) {
  for (const char* other : {"192.0.2.4", "192.0.2.6", "198.17.255.255", "198.20.0.0", "255.255.255.255"}) {
    EXPECT_FALSE(allows(kIpv4, ipv4(other, 6, Bytes(20)))) << other;
    EXPECT_FALSE(allows(kIpv4, ipv4(other, 17, Bytes(20), 0x2000))) << other;
    EXPECT_FALSE(allows(kIpv4, ipv4(other, 17, Bytes(20), 0x0010))) << other;
    EXPECT_FALSE(allows(kIpv4, ipv4(other, 17, udp(68, 67)))) << other;
    EXPECT_FALSE(allows(kArp, arp(kMac, other))) << other;
    EXPECT_FALSE(allows(kArp, arp(kMac, other, 2))) << other;
  }
  for (const char* other : {"2001:db8::4", "2001:db8:1:1000::1", "fe80::1", "::1", "::ffff:192.0.2.5"}) {
    EXPECT_FALSE(allows(kIpv6, ipv6(other, 6, Bytes(20)))) << other;
    EXPECT_FALSE(allows(kIpv6, ipv6(other, 44, fragment_header(17, 0, true) + Bytes(20)))) << other;
    EXPECT_FALSE(allows(kIpv6, ipv6(other, 44, fragment_header(17, 9, true) + Bytes(20)))) << other;
    EXPECT_FALSE(allows(kIpv6, ipv6(other, 58, neighbour(135, kOwn6)))) << other;
  }
}

TEST_F(IpGuardTest, Malicious_ArpThatNamesAnotherInAnyFieldDoesNotPass) {
  EXPECT_FALSE(allows(kArp, arp(kOtherMac, kOwn4))) << "the hardware address is the frame's";
  EXPECT_FALSE(allows(kArp, arp(kOtherMac, kOwn4, 2)));
  EXPECT_FALSE(allows(kArp, arp(kMac, "0.0.0.0", 2))) << "only a request is a probe";
  const Bytes good = arp(kMac, kOwn4);
  for (std::size_t i = 0; i < 6; ++i) {  // other hardware, other protocol, other lengths
    Bytes odd = good;
    odd[i] ^= std::byte{2};
    EXPECT_FALSE(allows(kArp, odd)) << i;
  }
  for (std::size_t bytes = 0; bytes < 28; ++bytes) {
    EXPECT_FALSE(allows(kArp, Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(bytes))))
        << bytes;
  }
}

TEST_F(IpGuardTest, Malicious_FromNoAddressOnlyTheBeginningOfAConfigurationPasses) {
  EXPECT_FALSE(allows(kIpv4, ipv4("0.0.0.0", 6, Bytes(20))));
  EXPECT_FALSE(allows(kIpv4, ipv4("0.0.0.0", 17, udp(67, 68)))) << "a server's";
  EXPECT_FALSE(allows(kIpv4, ipv4("0.0.0.0", 17, udp(68, 53))));
  EXPECT_FALSE(allows(kIpv4, ipv4("0.0.0.0", 17, udp(68, 67), 0x2000)));
  EXPECT_FALSE(allows(kIpv4, ipv4("0.0.0.0", 17, Bytes(2))));
  EXPECT_FALSE(allows(kIpv6, ipv6("::", 17, udp(546, 547))));
  EXPECT_FALSE(allows(kIpv6, ipv6("::", 58, bytes_of({128, 0, 0, 0, 0, 0, 0, 0}))));
  EXPECT_FALSE(allows(kIpv6, ipv6("::", 58, neighbour(135, "2001:db8::1")))) << "claims another's address";
  EXPECT_FALSE(allows(kIpv6, ipv6("::", 58, neighbour(136, kOwn6))));
  EXPECT_FALSE(allows(kIpv6, ipv6("::", 44, fragment_header(58, 8, false) + Bytes(16))));
}

TEST_F(IpGuardTest, Malicious_NeighbourDiscoveryForAnotherDoesNotPass) {
  EXPECT_FALSE(allows(kIpv6, ipv6(kOwn6, 58, neighbour(136, "2001:db8::1")))) << "the target is another's";
  EXPECT_FALSE(allows(kIpv6, ipv6(kOwn6, 58, neighbour(136, kOwn6, option(2, kOtherMac)))));
  EXPECT_FALSE(allows(kIpv6, ipv6(kOwn6, 58, neighbour(135, kOwn6, option(1, kOtherMac)))));
  EXPECT_FALSE(allows(kIpv6, ipv6(kOwn6, 58, neighbour(136, kOwn6, option(2, kMac) + option(2, kOtherMac)))))
      << "a receiver may take the last";
  EXPECT_FALSE(allows(kIpv6, ipv6(kOwn6, 58, neighbour(136, kOwn6, bytes_of({2, 0, 0, 0, 0, 0, 0, 0})))));
  EXPECT_FALSE(allows(kIpv6, ipv6(kOwn6, 58, neighbour(136, kOwn6, bytes_of({14, 9, 0, 0, 0, 0, 0, 0})))));
  for (int type : {134, 137}) {
    EXPECT_FALSE(allows(kIpv6, ipv6(kLinkLocal, 58, bytes_of({type, 0}) + Bytes(30)))) << type;
    EXPECT_TRUE(allows(make({kOwn6}, true), kIpv6, ipv6(kLinkLocal, 58, bytes_of({type, 0}) + Bytes(30))));
  }
  const Bytes good = neighbour(136, kOwn6);
  for (std::size_t bytes = 0; bytes < good.size(); ++bytes) {
    EXPECT_FALSE(allows(
        kIpv6, ipv6(kOwn6, 58, Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(bytes)))));
  }
  EXPECT_FALSE(allows(kIpv6, ipv6(kOwn6, 58, neighbour(136, kOwn6)), false)) << "options behind what is seen";
}

TEST_F(IpGuardTest, Malicious_ExtensionHeadersAndFragmentsHideNoNeighbourDiscovery) {
  const Bytes forged = neighbour(136, "2001:db8::1", option(2, kMac));
  for (int header : {0, 43, 60, 135, 139, 140}) {
    EXPECT_FALSE(allows(kIpv6, ipv6(kOwn6, header, extension(58) + forged))) << header;
    EXPECT_FALSE(allows(kIpv6, ipv6(kOwn6, header, extension(header, 1) + extension(58) + forged))) << header;
    EXPECT_FALSE(allows(kIpv6, ipv6(kOwn6, header, extension(58, 20) + forged))) << "behind what is seen";
  }
  EXPECT_FALSE(allows(kIpv6, ipv6(kOwn6, 51, bytes_of({58, 1}) + Bytes(10) + forged)))
      << "AH counts in words";
  EXPECT_FALSE(allows(kIpv6, ipv6(kOwn6, 44, fragment_header(58, 0, true) + forged)));
  EXPECT_FALSE(allows(kIpv6, ipv6(kOwn6, 44, fragment_header(58, 0, false) + forged)))
      << "an atomic fragment";
  EXPECT_FALSE(allows(kIpv6, ipv6(kOwn6, 44, fragment_header(58, 0, true) + neighbour(136, kOwn6))))
      << "RFC 6980";
  EXPECT_FALSE(allows(kIpv6, ipv6(kOwn6, 44, fragment_header(60, 0, true) + bytes_of({58, 9, 0, 0}))))
      << "RFC 7112: the first fragment has all headers";
  Bytes chain;
  for (int i = 0; i < 9; ++i) {
    chain = chain + extension(60);
  }
  EXPECT_FALSE(allows(kIpv6, ipv6(kOwn6, 60, chain)));
}

TEST_F(IpGuardTest, Malicious_WhatIsNoIpDoesNotPass) {
  const Bytes packet = ipv4(kOwn4, 6, Bytes(20));
  for (std::uint16_t type : std::initializer_list<std::uint16_t>{0x0000, 0x0026, 0x8035, 0x8847, 0x8864,
                                                                 0x88b5, 0x88e5, 0x8100, 0x88a8}) {
    EXPECT_FALSE(allows(type, packet)) << type;
  }
  EXPECT_FALSE(allows(kIpv6, packet));
  EXPECT_FALSE(allows(kIpv4, ipv6(kOwn6, 6, Bytes(20))));
  for (std::size_t bytes = 0; bytes < 20; ++bytes) {
    EXPECT_FALSE(allows(kIpv4, Bytes(packet.begin(), packet.begin() + static_cast<std::ptrdiff_t>(bytes))));
  }
  Bytes short_header = packet;
  short_header[0] = std::byte{0x44};
  EXPECT_FALSE(allows(kIpv4, short_header));
}

TEST_F(IpGuardTest, AFamilyThatIsNotListedDoesNotPass) {
  const IpGuard only4 = make({kOwn4}), only6 = make({kOwn6});
  EXPECT_TRUE(allows(only4, kIpv4, ipv4(kOwn4, 6, Bytes(20))));
  EXPECT_FALSE(allows(only4, kIpv6, ipv6(kLinkLocal, 6, Bytes(20))));
  EXPECT_FALSE(allows(only4, kIpv6, ipv6("::", 58, neighbour(135, kLinkLocal))));
  EXPECT_FALSE(allows(only6, kIpv4, ipv4(kOwn4, 6, Bytes(20))));
  EXPECT_FALSE(allows(only6, kIpv4, ipv4("0.0.0.0", 17, udp(68, 67))));
  EXPECT_FALSE(allows(only6, kArp, arp(kMac, "0.0.0.0")));
  EXPECT_TRUE(make({}).empty());
}

TEST(IpPrefix, IsReadAsItIsWrittenAndNothingElse) {
  EXPECT_EQ(IpPrefix::read("192.0.2.5").value().bits, 32);
  EXPECT_EQ(IpPrefix::read("0.0.0.0/0").value().bits, 0);
  EXPECT_TRUE(IpPrefix::read("0.0.0.0/0").value().contains(address("203.0.113.9")));
  EXPECT_EQ(IpPrefix::read("2001:db8::/64").value().bits, 64);
  for (const char* bad :
       {"", "192.0.2", "192.0.2.5/33", "192.0.2.5/", "2001:db8::/129", "x/8", "192.0.2.5/8x"}) {
    EXPECT_FALSE(IpPrefix::read(bad)) << bad;
  }
}

}  // namespace
}  // namespace sluice
