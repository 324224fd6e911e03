// What ports may not do to each other through the switch and the NIC's queues, on the real daemon.
#include "test/system/fixture.h"

namespace sluice::test {
namespace {

constexpr std::uint16_t kDns = 5000;
constexpr Mac kHostMac{0x52, 0x54, 0, 0, 0, 0x02};

std::string tap_port(const std::string& more = "") {
  return "[port.host0]\ntype = \"tap\"\nnetdev = \"tap0\"\nmac = \"52:54:00:00:00:02\"\n" + more + "\n";
}

class Malicious_Switch : public SystemTest {
 protected:
  explicit Malicious_Switch(VethOptions links = {}) : SystemTest(std::move(links)) {}
};

// Before the check an app without any VLAN reached ports in access VLANs, tag by tag.
TEST_F(Malicious_Switch, AProgramThatTagsItsFramesReachesNobodyInAnAccessVlan) {
  start(nic_table() + app_port("dns") + udp_rule(kDns, "dns") + tap_port("vlan = 7"));
  auto dns = attach("dns", kDns, 0);
  UdpFrame udp;
  udp.source = dns->source_mac();
  udp.destination = kHostMac;
  udp.vlan = 7;
  const Frame tagged = udp_frame(udp);
  ASSERT_TRUE(dns->send(std::array{tagged}));
  expect_port_counter("dns", "drop_tx_vlan", 1);
  expect_port_counter("dns", "tx_packets", 0);
  expect_port_counter("host0", "rx_packets", 0);
}

// Before that an app's default was the NIC's own address: it could speak as the host.
TEST_F(Malicious_Switch, AProgramWithoutAnAddressOfItsOwnSendsNothingNotEvenAsTheHost) {
  start(nic_table() + "[port.dns]\ntype = \"app\"\nsocket = \"@/dns.sock\"\n" + udp_rule(kDns, "dns"));
  auto dns = attach("dns", kDns, 0);
  EXPECT_FALSE(dns->can_send());
  EXPECT_EQ(dns->source_mac(), Mac{});
  Tap wire = wire_tap();
  UdpFrame udp;
  udp.source = pair().options().nic_mac;
  udp.destination = pair().options().wire_mac;
  udp.destination_port = kDns;
  ASSERT_TRUE(dns->send(std::array{udp_frame(udp)}));
  expect_port_counter("dns", "drop_tx_no_address", 1);
  expect_port_counter("dns", "tx_packets", 0);
  EXPECT_EQ(wire.count_udp_to(kDns), 0u);
  EXPECT_EQ(daemon().port("dns")["mac"], nlohmann::json::array());
}

TEST_F(Malicious_Switch, AProgramsSpanningTreeDoesNotLeaveByTheUplink) {
  start(nic_table() + app_port("dns") + udp_rule(kDns, "dns"));
  auto dns = attach("dns", kDns, 0);
  UdpFrame udp;
  udp.source = dns->source_mac();
  udp.destination = {0x01, 0x80, 0xc2, 0, 0, 0};
  ASSERT_TRUE(dns->send(std::array{udp_frame(udp)}));
  expect_port_counter("dns", "drop_tx_reserved", 1);
  expect_port_counter("dns", "tx_packets", 0);
}

TEST_F(Malicious_Switch, AProgramThatMaySpeakForOneAddressSpeaksForNoOther) {
  start(nic_table() + app_port("dns", "source_ip = [\"192.0.2.5\"]") + udp_rule(kDns, "dns"));
  auto dns = attach("dns", kDns, 0);
  UdpFrame udp;
  udp.source = dns->source_mac();
  udp.source_ip = "192.0.2.6";
  const Frame forged = udp_frame(udp);
  udp.source_ip = "192.0.2.5";
  ASSERT_TRUE(dns->send(std::array{forged, udp_frame(udp)}));
  expect_port_counter("dns", "drop_tx_source_ip", 1);
  expect_port_counter("dns", "tx_packets", 1);
}

class Malicious_OwnedQueue : public Malicious_Switch {
 protected:
  Malicious_OwnedQueue() : Malicious_Switch({.queues = 2}) {}
};

// Before, they passed through the owner's arena on their way to the port.
TEST_F(Malicious_OwnedQueue, FramesOfOthersNeverComeToTheOwnersSocket) {
  constexpr std::uint64_t kFrames = 50;
  start(nic_table() + app_port("dns", "queues = [\"nic0:1\"]") + udp_rule(kDns, "dns") + tap_port());
  auto dns = attach("dns", kDns, 0);
  UdpFrame udp;
  udp.destination = kHostMac;
  udp.destination_port = 7000;
  LiveFramesOptions options;
  options.frame = udp_frame(udp);
  options.count = kFrames;
  options.cpu = 1;
  auto flow = need(LiveFrames::create(pair(), std::move(options)));
  expect_sent(*flow, kFrames);
  expect_port_counter("host0", "xdp_drop_owned_queue", kFrames);
  expect_counter("queue.nic0:1.drop_owned_queue", kFrames);
  expect_counter("queue.nic0:1.rx_packets", 0);
}

}  // namespace
}  // namespace sluice::test
