#include "demux/rule.h"

#include <gtest/gtest.h>

#include <string>

namespace sluice {
namespace {

std::string normal(std::string_view text) {
  auto match = parse_match(text);
  return match ? to_string(*match) : "error: " + match.error().message;
}

std::string error_of(std::string_view text) {
  auto match = parse_match(text);
  return match ? "no error" : match.error().message;
}

TEST(Rule, ReadsEveryWordAndPrintsItBack) {
  for (const char* text : {
           "",
           "dst_mac 52:54:00:00:00:01",
           "src_mac 52:54:00:ab:cd:ef",
           "dst_mac 01:00:00:00:00:00/01:00:00:00:00:00",
           "vlan_id 0",
           "vlan_id 4095",
           "eth_type ip",
           "eth_type ipv6",
           "eth_type arp",
           "eth_type 0x88cc",
           "ip_proto tcp",
           "ip_proto udp",
           "ip_proto icmp",
           "ip_proto icmpv6",
           "ip_proto sctp",
           "ip_proto 0",
           "ip_proto 255",
           "src_ip 10.0.0.0/8",
           "dst_ip 192.0.2.1",
           "src_ip 0.0.0.0/0",
           "src_ip 2001:db8::/32",
           "dst_ip ::1",
           "dst_ip ::/0",
           "src_port 0",
           "dst_port 65535",
           "dst_port 1000-2000",
           "dst_port 0-65535",
           "dst_mac 52:54:00:00:00:01 src_mac 52:54:00:00:00:02 vlan_id 7 eth_type ip ip_proto udp src_ip "
           "10.0.0.0/8 "
           "dst_ip 10.1.2.3 src_port 1-2 dst_port 53",
       }) {
    EXPECT_EQ(normal(text), text);
  }
}

TEST(Rule, HasOneNormalFormPerMeaning) {
  EXPECT_EQ(normal("  dst_port\t53 \n ip_proto 17 "), "ip_proto udp dst_port 53");
  EXPECT_EQ(normal("eth_type 0x0800"), "eth_type ip");
  EXPECT_EQ(normal("eth_type ipv4"), "eth_type ip");
  EXPECT_EQ(normal("eth_type 2054"), "eth_type arp");
  EXPECT_EQ(normal("ip_proto 0x11"), "ip_proto udp");
  EXPECT_EQ(normal("src_ip 10.1.2.3/8"), "src_ip 10.0.0.0/8");
  EXPECT_EQ(normal("src_ip 10.1.2.255/25"), "src_ip 10.1.2.128/25");
  EXPECT_EQ(normal("src_ip 10.1.2.3/32"), "src_ip 10.1.2.3");
  EXPECT_EQ(normal("dst_ip 2001:DB8:0::1/127"), "dst_ip 2001:db8::/127");
  EXPECT_EQ(normal("dst_port 5-5"), "dst_port 5");
  EXPECT_EQ(normal("dst_mac AA:bb:CC:dd:EE:ff/ff:00:00:00:00:00"),
            "dst_mac aa:00:00:00:00:00/ff:00:00:00:00:00");
}

TEST(Rule, ErrorsNameTheWordAndWhatIsExpected) {
  const std::pair<const char*, const char*> kCases[] = {
      {"dst_prt 5", "match: unknown word 'dst_prt': expected one of dst_mac, src_mac, vlan_id"},
      {"53", "match: unknown word '53'"},
      {"dst_port", "match: dst_port: expected a value behind it"},
      {"ip_proto udp dst_port", "match: dst_port: expected a value behind it"},
      {"dst_port 53 dst_port 54", "match: dst_port stands there twice"},
      {"dst_mac 52:54:00:00:00", "match: dst_mac '52:54:00:00:00': expected a MAC address"},
      {"dst_mac 52:54:00:00:00:0g", "expected a MAC address"},
      {"dst_mac 52:54:00:00:00:001", "expected a MAC address"},
      {"dst_mac 52-54-00-00-00-01", "expected a MAC address"},
      {"dst_mac +2:54:00:00:00:01", "expected a MAC address"},
      {"src_mac 52:54:00:00:00:01/24", "match: src_mac '52:54:00:00:00:01/24': expected a MAC address"},
      {"vlan_id 4096", "match: vlan_id '4096': expected a number 0 .. 4095"},
      {"vlan_id -1", "expected a number 0 .. 4095"},
      {"vlan_id 5x", "expected a number 0 .. 4095"},
      {"vlan_id 0x", "expected a number 0 .. 4095"},
      {"vlan_id 99999999999999999999", "expected a number 0 .. 4095"},
      {"eth_type 65536", "match: eth_type '65536': expected ip, ipv6, arp or a number 0 .. 0xffff"},
      {"eth_type IP", "expected ip, ipv6, arp"},
      {"ip_proto 256", "match: ip_proto '256': expected tcp, udp, icmp, icmpv6, sctp or a number 0 .. 255"},
      {"ip_proto quic", "match: ip_proto 'quic'"},
      {"src_ip 10.0.0", "match: src_ip '10.0.0': expected an IP address or prefix"},
      {"src_ip 10.0.0.1/33", "match: src_ip '10.0.0.1/33'"},
      {"src_ip 10.0.0.1/", "match: src_ip '10.0.0.1/'"},
      {"dst_ip ::1/129", "match: dst_ip '::1/129'"},
      {"dst_ip example.org", "match: dst_ip 'example.org'"},
      {"dst_port 65536", "match: dst_port '65536': expected a port 0 .. 65535 or a range LOW-HIGH"},
      {"dst_port 20-10", "match: dst_port '20-10': expected a port"},
      {"src_port 1-", "match: src_port '1-': expected a port"},
      {"src_port -1", "match: src_port '-1': expected a port"},
      {"src_port 1-2-3", "match: src_port '1-2-3': expected a port"},
      {"src_port http", "match: src_port 'http': expected a port"},
  };
  for (auto [text, expected] : kCases) {
    EXPECT_NE(error_of(text).find(expected), std::string::npos) << text << " -> " << error_of(text);
  }
}

TEST(Rule, ThatCanNeverMatchIsAnError) {
  const std::pair<const char*, const char*> kCases[] = {
      {"src_ip 10.0.0.1 dst_ip ::1", "match: dst_ip is IPv6 but src_ip is IPv4"},
      {"src_ip ::1 dst_ip 10.0.0.1", "match: dst_ip is IPv4 but src_ip is IPv6"},
      {"eth_type ipv6 src_ip 10.0.0.1", "match: src_ip is IPv4: expected eth_type ip or none"},
      {"eth_type arp dst_ip ::1", "match: dst_ip is IPv6: expected eth_type ipv6 or none"},
      {"eth_type arp ip_proto udp", "match: ip_proto with eth_type 0x0806"},
      {"eth_type 0x88cc dst_port 5", "match: dst_port with eth_type 0x88cc"},
      {"ip_proto icmp dst_port 5",
       "match: dst_port with ip_proto icmp: expected ip_proto tcp, udp, sctp or none"},
      {"ip_proto 47 src_port 5", "match: src_port with ip_proto 47"},
  };
  for (auto [text, expected] : kCases) {
    EXPECT_NE(error_of(text).find(expected), std::string::npos) << text << " -> " << error_of(text);
  }
}

}  // namespace
}  // namespace sluice
