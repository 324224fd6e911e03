#include "control/show/render.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

using nlohmann::json;

TEST(Render, AlignsColumnsAndGroupsDigits) {
  json ports = json::parse(
      R"([{"name":"dns","type":"app","id":2,"state":"attached","client":"dnsd","pid":4711,"uid":103,
      "pages_held":12,"page_limit":4096,"uplink":"eth1","queues":["eth1:1"],
      "counters":{"zero_copy":1234567,"copied":0,"tx_packets":5,"drop_ring_full":3,"drop_page_limit":4,"fault_double":1}},
     {"name":"web","type":"app","id":3,"state":"detached","client":null,"pid":null,"uid":null,
      "pages_held":0,"page_limit":64,"uplink":null,"queues":[],"counters":{}}])");
  EXPECT_EQ(render_ports(ports),
            "PORT  TYPE  STATE     CLIENT   PID  UPLINK  QUEUES  PAGES HELD  LIMIT  ZERO COPY  COPIED  TX "
            "PACKETS  DROPS  FAULTS\n"
            "dns   app   attached  dnsd    4711  eth1    eth1:1          12  4,096  1,234,567       0        "
            "   5      7       1\n"
            "web   app   detached  -          -  -       -                0     64          -       -        "
            "   -      0       0\n");
}

TEST(Render, SaysThatAnAppHasNoAddressToSendFrom) {
  json none = {{"name", "dns"}, {"type", "app"}, {"uplink", nullptr}, {"mac", json::array()}};
  EXPECT_NE(render_ports(json::array({none})).find("- (no mac)"), std::string::npos);
  json trusted = none, with_one = none;
  trusted["uplink"] = "eth1";
  with_one["mac"] = {"52:54:00:00:00:01"};
  EXPECT_EQ(render_ports(json::array({trusted, with_one})).find("no mac"), std::string::npos);
}

TEST(Render, ShowsTheOtherTables) {
  EXPECT_EQ(
      render_nics(json::parse(
          R"([{"name":"eth1","ifindex":3,"driver":"veth","mac":"02:00:00:00:00:01","mtu":9000,
      "link":true,"mode":"native","af_xdp":"zerocopy","queues":[0,1],"counters":{"rx_packets":1000,"tx_packets":1}}])")),
      "NIC   DRIVER  MAC                 MTU  LINK  XDP     AF_XDP    QUEUES  RX PACKETS  TX PACKETS  DROPS\n"
      "eth1  veth    02:00:00:00:00:01  9000  up    native  zerocopy  0,1          1,000           1      "
      "0\n");
  EXPECT_EQ(
      render_queues(json::parse(
          R"([{"nic":"eth1","queue":0,"owner":"host","state":"open","why":null,"worker":0,"mode":"copy","counters":{}},
      {"nic":"eth1","queue":1,"owner":"dns","state":"failed","why":"no memory","worker":1,"mode":null,"counters":{}}])")),
      "NIC   QUEUE  OWNER  STATE   WORKER  MODE  RX PACKETS  TX PACKETS  DROPS  WHY\n"
      "eth1      0  host   open         0  copy           -           -      0  -\n"
      "eth1      1  dns    failed       1  -              -           -      0  no memory\n");
  EXPECT_EQ(render_rules(json::parse(
                R"([{"id":7,"nic":"eth1","match":"","to":"dns","priority":-1,"shed":true,"packets":10,
      "bytes":6400}])")),
            "ID  FROM  PRIORITY  MATCH         TO   SHED  PACKETS  BYTES\n"
            " 7  eth1        -1  (everything)  dns  yes        10  6,400\n");
  EXPECT_EQ(
      render_rules(json::parse(
          R"([{"id":0,"nic":"eth1","port":"","match":"dst_mac 02:00:00:00:00:07","to":"vm0","priority":0,
      "shed":false,"implicit":true,"packets":1,"bytes":60},
     {"id":0,"nic":"","port":"vm0","match":"ip_proto tcp","to":"dns","priority":5,"shed":false,
      "implicit":false,"packets":2,"bytes":120}])")),
      "ID  FROM  PRIORITY  MATCH                      TO   SHED  PACKETS  BYTES\n"
      " 0  eth1  implicit  dst_mac 02:00:00:00:00:07  vm0  no          1     60\n"
      " 0  vm0          5  ip_proto tcp               dns  no          2    120\n");
  EXPECT_EQ(render_counters(json{{"nic.eth1.rx_packets", 1000}}),
            "COUNTER              VALUE\nnic.eth1.rx_packets  1,000\n");
  EXPECT_EQ(render_pools(json::array()), "no pools\n");
  EXPECT_EQ(render_config(json{{"toml", "[daemon]\n"}}), "[daemon]\n");
}

TEST(Render, GuestsAreATableTheirFeaturesAndTheirRings) {
  json guests = json::parse(
      R"([{"name":"vm0","state":"running","pid":4711,"uplink":"eth1","mac":["52:54:00:00:00:01"],"vlan":7,
      "mode":"bridge","calls":"aio","features":["VERSION_1","RING_PACKED"],"protocol_features":["MQ"],
      "regions":[{"guest_address":"0x0","bytes":134217728,"huge_pages":false}],
      "memory":{"bytes":134217728,"mapped_bytes":134217728,"limit_bytes":274877906944},
      "rings":[{"index":0,"kind":"rx","format":"packed","entries":256,"enabled":true,"running":true,
                "broken":false,"worker":0,"packets":5,"kicks":1,"calls":2,"calls_suppressed":3},
               {"index":1,"kind":"tx","format":"packed","entries":256,"enabled":true,"running":false,
                "broken":true,"worker":1,"packets":0,"kicks":0,"calls":0,"calls_suppressed":0}],
      "counters":{"kicks":1,"calls":2,"rx_packets":5,"tx_packets":0,"drop_ring_full":2}},
     {"name":"vm1","state":"waiting","pid":null,"uplink":null,"mac":["52:54:00:00:00:02"],"vlan":0,
      "mode":"vepa","calls":"write","features":[],"protocol_features":[],"regions":[],
      "memory":{"bytes":0,"mapped_bytes":0,"limit_bytes":1073741824},"rings":[],"counters":{}}])");
  EXPECT_EQ(render_guests(guests),
            "GUEST  STATE     PID  UPLINK  MAC                VLAN  MODE    RINGS  REGIONS   MEMORY    LIMIT "
            " KICKS  "
            "CALLS  CALLED BY  RX PACKETS  TX PACKETS  DROPS  FAULTS\n"
            "vm0    running  4711  eth1    52:54:00:00:00:01     7  bridge    1/2        1  128 MiB  256 GiB "
            "     1  "
            "    2  aio                 5           0      2       0\n"
            "vm1    waiting     -  -       52:54:00:00:00:02     0  vepa      0/0        0      0 B    1 GiB "
            "     -  "
            "    -  write               -           -      0       0\n"
            "\n"
            "GUEST  FEATURES\n"
            "vm0    VERSION_1,RING_PACKED\n"
            "vm0    MQ\n"
            "\n"
            "GUEST  RING  KIND  FORMAT  ENTRIES  STATE    WORKER  PACKETS  KICKS  CALLS  CALLS SPARED\n"
            "vm0       0  rx    packed      256  running       0        5      1      2             3\n"
            "vm0       1  tx    packed      256  broken        1        0      0      0             0\n");
  EXPECT_EQ(render_guests(json::array()), "no guests\n");
}

TEST(Render, Malicious_NameThatAClientChoseCannotSteerTheTerminal) {
  json ports = json::parse(R"([{"name":"p","client":"\u001b[2J\u009b\nroot"}])");
  std::string text = render_ports(ports);
  EXPECT_NE(text.find("?[2J???root"), std::string::npos) << text;
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
}

TEST(Render, SurvivesAnswersOfAnotherShape) {
  for (const char* text : {"null", "3", "\"x\"", "[3]", "[[1]]", "{\"a\":[1]}", "[{\"counters\":3}]",
                           "[{\"name\":{\"a\":1.5}}]"}) {
    json result = json::parse(text);
    for (auto render : {render_nics, render_queues, render_ports, render_guests, render_rules, render_pools,
                        render_counters, render_config}) {
      EXPECT_NO_THROW(render(result)) << text;
    }
    EXPECT_NO_THROW(rates_between(result, result, 1));
  }
}

TEST(Render, NumbersHaveThreeDigitsAndAPrefix) {
  EXPECT_EQ(si(0, "pps"), "0 pps");
  EXPECT_EQ(si(999.4, "pps"), "999 pps");
  EXPECT_EQ(si(999.6, "pps"), "1.00 kpps");
  EXPECT_EQ(si(12'345'678, "pps"), "12.3 Mpps");
  EXPECT_EQ(si(100e9, "bit/s"), "100 Gbit/s");
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(UINT64_MAX), "18,446,744,073,709,551,615");
}

TEST(Rates, AreDifferencesPerSecondByOwner) {
  json before{{"nic.eth0.7.rx_packets", 100}, {"port.dns.rx_bytes", 1000}, {"port.dns.drop_a", 5}};
  json after{{"nic.eth0.7.rx_packets", 600}, {"port.dns.rx_bytes", 500}, {"port.dns.drop_a", 7},
             {"port.dns.drop_b", 2},         {"pool.eth0:0.held", 9},    {"odd", 1}};
  auto rates = rates_between(before, after, 2'000'000'000);
  ASSERT_EQ(rates.size(), 2u);
  EXPECT_EQ(rates[0].name, "nic eth0.7");
  EXPECT_EQ(rates[0].rx_packets, 250);
  EXPECT_EQ(rates[1].name, "port dns");
  EXPECT_EQ(rates[1].rx_bits, 2000) << "the port was made anew: it counts from 0";
  EXPECT_EQ(rates[1].drops, 2);
  EXPECT_EQ(render_rates(rates),
            "NAME        RX PACKETS      RX BITS  TX PACKETS  TX BITS  DROPS  FAULTS\n"
            "nic eth0.7     250 pps      0 bit/s       0 pps  0 bit/s  0 pps    0 /s\n"
            "port dns         0 pps  2.00 kbit/s       0 pps  0 bit/s  2 pps    0 /s\n");
}

}  // namespace
}  // namespace sluice
