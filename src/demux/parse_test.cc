// The XDP program's reading of frames, run in the kernel by BPF_PROG_TEST_RUN, held against the naive parser.
#include <gtest/gtest.h>

#include "demux/demux_fixture.h"
#include "demux/random_traffic.h"

namespace sluice {
namespace {

using testing::Bytes;
using testing::DemuxTest;
using testing::NaiveParser;
using testing::PacketBuilder;
using testing::RandomTraffic;
using testing::Seen;

// A rule per thing that a key can hold, the more telling ones first: what wins says what the program saw.
std::vector<Rule> telling_rules() {
  const char* kMatches[] = {
      "src_port 1111 dst_port 2222 ip_proto udp vlan_id 5",
      "src_port 1111 dst_port 2222 ip_proto tcp",
      "dst_port 2222 ip_proto sctp",
      "dst_port 2222",
      "src_port 1000-1200",
      "src_ip 10.0.0.1 dst_ip 10.0.0.2 ip_proto udp",
      "ip_proto udp",
      "ip_proto tcp",
      "ip_proto sctp",
      "ip_proto icmp",
      "ip_proto icmpv6",
      "ip_proto 0",
      "ip_proto 59",
      "src_ip 10.0.0.1",
      "dst_ip 10.0.0.2",
      "src_ip 2001:db8::1",
      "dst_ip 2001:db8::2",
      "src_ip ::/0",
      "vlan_id 5 eth_type ip",
      "vlan_id 5",
      "vlan_id 6",
      "eth_type ip",
      "eth_type ipv6",
      "eth_type arp",
      "eth_type 0x8100",
      "eth_type 0x88a8",
      "vlan_id 0 src_mac 02:00:00:00:00:02",
      "src_mac 02:00:00:00:00:02",
  };
  std::vector<Rule> rules;
  for (const char* match : kMatches) {
    auto slot = static_cast<std::uint32_t>(rules.size());
    rules.push_back({.match = parse_match(match).value(),
                     .port = PortId{2},
                     .priority = -static_cast<std::int32_t>(slot),
                     .slot = RuleSlot{slot}});
  }
  return rules;
}

using Layer = void (*)(PacketBuilder&);

constexpr Layer kTags[] = {
    [](PacketBuilder&) {},
    [](PacketBuilder& packet) { packet.tag(5); },
    [](PacketBuilder& packet) { packet.tag(0xe005, 0x88a8); },  // priority bits are not the id
    [](PacketBuilder& packet) { packet.tag(0xe000); },          // a priority tag
    [](PacketBuilder& packet) { packet.tag(5, 0x88a8).tag(6); },
    [](PacketBuilder& packet) { packet.tag(6).tag(5); },
    [](PacketBuilder& packet) { packet.tag(5).tag(6).tag(7); },  // one more than is read
};

template <int Options, int Fragment>
void ipv4(PacketBuilder& packet) {
  packet.ipv4("10.0.0.1", "10.0.0.2", Options, Fragment);
}
PacketBuilder& ipv6(PacketBuilder& packet) {
  return packet.ipv6("2001:db8::1", "2001:db8::2");
}

constexpr Layer kIpv4[] = {
    ipv4<0, 0>, ipv4<4, 0x4000>, ipv4<40, 0>, ipv4<0, 0x2000>, ipv4<0, 0x0001>,
};
constexpr Layer kIpv6[] = {
    [](PacketBuilder& packet) { ipv6(packet); },
    [](PacketBuilder& packet) { ipv6(packet).extension(0, 8); },
    [](PacketBuilder& packet) {
      ipv6(packet).extension(0, 16).extension(60, 24).extension(43, 8).extension(60, 8);
    },
    [](PacketBuilder& packet) { ipv6(packet).extension(51, 12); },
    [](PacketBuilder& packet) { ipv6(packet).extension(51, 24).extension(135, 8); },
    [](PacketBuilder& packet) { ipv6(packet).fragment(0x0001); },  // the first of several
    [](PacketBuilder& packet) { ipv6(packet).extension(0, 8).fragment(0x0100); },
    [](PacketBuilder& packet) { ipv6(packet).fragment(0); },  // atomic (RFC 6946)
    [](PacketBuilder& packet) {
      ipv6(packet);
      for (int i = 0; i < 8; ++i) packet.extension(60, 8);
    },
    [](PacketBuilder& packet) {
      ipv6(packet);
      for (int i = 0; i < 9; ++i) packet.extension(60, 8);
    },
};

template <int IcmpProtocol>
constexpr Layer kTransports[] = {
    [](PacketBuilder& packet) { packet.udp(1111, 2222); },
    [](PacketBuilder& packet) { packet.tcp(1111, 2222); },
    [](PacketBuilder& packet) { packet.sctp(1111, 2222); },
    [](PacketBuilder& packet) { packet.icmp(IcmpProtocol); },
    [](PacketBuilder& packet) { packet.proto(59); },
    [](PacketBuilder& packet) { packet.proto(47).payload(20); },
};

void combine(std::span<const Layer> networks, std::span<const Layer> transports, std::vector<Bytes>& frames) {
  for (const Layer tags : kTags) {
    for (const Layer network : networks) {
      for (const Layer transport : transports) {
        PacketBuilder packet;
        tags(packet);
        network(packet);
        transport(packet);
        frames.push_back(packet.build());
      }
    }
  }
}

// Every layer 2 in front of every layer 3 in front of every layer 4.
std::vector<Bytes> every_combination() {
  std::vector<Bytes> frames;
  combine(kIpv4, kTransports<1>, frames);
  combine(kIpv6, kTransports<58>, frames);
  frames.push_back(PacketBuilder().type(0x0806).payload(28).build());
  frames.push_back(PacketBuilder().tag(5).type(0x0806).payload(28).build());
  frames.push_back(PacketBuilder().type(0x88cc).payload(28).build());
  frames.push_back(PacketBuilder().tag(7).type(0x88cc).payload(28).build());
  frames.push_back(PacketBuilder().ipv4("10.0.0.1", "10.0.0.2").udp(1111, 3333).build());
  frames.push_back(PacketBuilder().ipv4("10.0.0.1", "10.0.0.2").proto(0).payload(20).build());
  frames.push_back(PacketBuilder().ipv4("10.0.0.9", "10.0.0.2").proto(47).payload(20).build());
  frames.push_back(PacketBuilder().ipv6("2001:db8::9", "2001:db8::2").proto(47).payload(20).build());
  frames.push_back(PacketBuilder().ipv6("2001:db8::9", "2001:db8::9").proto(47).payload(20).build());
  return frames;
}

class ParseTest : public DemuxTest {
 protected:
  void SetUp() override {
    DemuxTest::SetUp();
    if (demux_ && !IsSkipped()) {
      use(rules_);
    }
  }
  void expect_agreement(const Bytes& frame, const std::string& what) {
    NaiveParser parser(frame);
    const Rule* winner = testing::naive_winner(rules_, parser.seen());
    ASSERT_EQ(slot_of(frame), winner ? static_cast<std::int64_t>(raw(winner->slot)) : -1)
        << what << ", winner should be '" << (winner ? to_string(winner->match) : "none") << "'";
  }
  std::vector<Rule> rules_ = telling_rules();
};

constexpr std::size_t kLeast = 14;  // BPF_PROG_TEST_RUN takes no frame shorter than an Ethernet header

TEST_F(ParseTest, EveryHeaderCombinationAtEveryLengthIsReadAsTheNaiveParserReadsIt) {
  std::vector<Bytes> frames = every_combination();
  std::size_t runs = 0;
  for (std::size_t i = 0; i < frames.size(); ++i) {
    for (std::size_t length = kLeast; length <= frames[i].size(); ++length) {
      Bytes frame(frames[i].begin(), frames[i].begin() + static_cast<std::ptrdiff_t>(length));
      ASSERT_NO_FATAL_FAILURE(expect_agreement(frame, fmt::format("frame {} of {} bytes", i, length)));
      ++runs;
    }
  }
  EXPECT_GT(runs, 40'000u);
}

TEST_F(ParseTest, EachTellingRuleWinsForSomeFrame) {
  // else the test above would compare less than it says
  std::vector<bool> won(rules_.size());
  for (const Bytes& whole : every_combination()) {
    for (std::size_t length = kLeast; length <= whole.size(); ++length) {
      Bytes frame(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
      NaiveParser parser(frame);
      if (const Rule* winner = testing::naive_winner(rules_, parser.seen())) {
        won[raw(winner->slot)] = true;
      }
    }
  }
  for (std::size_t i = 0; i < won.size(); ++i) {
    EXPECT_TRUE(won[i]) << to_string(rules_[i].match);
  }
}

TEST_F(ParseTest, LengthsThatHeadersClaimAreBelievedOnlyToTakePortsAway) {
  for (std::uint32_t claimed = 0; claimed < 65536; claimed += claimed < 100 ? 1 : 641) {
    Bytes v4 = PacketBuilder().ipv4("10.0.0.1", "10.0.0.2").udp(1111, 2222).payload(30).build();
    testing::put16(v4, 16, claimed);
    ASSERT_NO_FATAL_FAILURE(expect_agreement(v4, fmt::format("IPv4 total length {}", claimed)));
    Bytes v6 = PacketBuilder().ipv6("2001:db8::1", "2001:db8::2").extension(0, 8).tcp(1111, 2222).build();
    testing::put16(v6, 18, claimed);
    ASSERT_NO_FATAL_FAILURE(expect_agreement(v6, fmt::format("IPv6 payload length {}", claimed)));
  }
  for (int value = 0; value < 256; ++value) {
    Bytes v4 = PacketBuilder().ipv4("10.0.0.1", "10.0.0.2", 40).udp(1111, 2222).payload(30).build();
    v4[14] = static_cast<std::uint8_t>(value);  // version and header length
    ASSERT_NO_FATAL_FAILURE(expect_agreement(v4, fmt::format("IPv4 first byte {}", value)));
    Bytes v6 = PacketBuilder()
                   .ipv6("2001:db8::1", "2001:db8::2")
                   .extension(51, 12)
                   .tcp(1111, 2222)
                   .payload(64)
                   .build();
    v6[54 + 1] = static_cast<std::uint8_t>(value);  // the extension's length
    ASSERT_NO_FATAL_FAILURE(expect_agreement(v6, fmt::format("AH length {}", value)));
    v6[14] = static_cast<std::uint8_t>(value);
    ASSERT_NO_FATAL_FAILURE(expect_agreement(v6, fmt::format("IPv6 first byte {}", value)));
  }
}

TEST_F(ParseTest, PaddingBehindAnIpPacketIsNotAHeader) {
  Bytes frame = PacketBuilder().ipv4("10.0.0.1", "10.0.0.2").proto(17).build(60);
  frame[34] = 1111 >> 8;
  frame[35] = 1111 & 255;
  frame[36] = 2222 >> 8;
  frame[37] = 2222 & 255;
  auto slot = slot_of(frame);
  ASSERT_GE(slot, 0);
  EXPECT_EQ(to_string(rules_[static_cast<std::size_t>(slot)].match),
            "ip_proto udp src_ip 10.0.0.1 dst_ip 10.0.0.2");
  EXPECT_EQ(counters()["truncated"], 1u);
}

TEST_F(ParseTest, FragmentsTruncationAndTooManyHeadersAreCounted) {
  std::uint64_t truncated = 0, fragments = 0, header_limit = 0;
  for (const Bytes& whole : every_combination()) {
    for (std::size_t length : {whole.size(), whole.size() * 2 / 3}) {
      Bytes frame(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(std::max(length, kLeast)));
      NaiveParser parser(frame);
      truncated += parser.seen().truncated;
      fragments += parser.seen().fragment;
      header_limit += parser.seen().header_limit;
      ASSERT_EQ(run(frame).error, 0);
    }
  }
  EXPECT_GT(header_limit, 0u);
  EXPECT_EQ(counters()["truncated"], truncated);
  EXPECT_EQ(counters()["fragments"], fragments);
  EXPECT_EQ(counters()["header_limit"], header_limit);
}

TEST_F(ParseTest, AnyLengthUpTo65535IsAnsweredOrRefusedByTheKernel) {
  std::size_t accepted = 0, longest = 0;
  for (std::size_t length = 0; length <= 65535; length += length < 4200 ? 1 : 997) {
    Bytes frame =
        PacketBuilder().ipv4("10.0.0.1", "10.0.0.2").udp(1111, 2222).build(std::max<std::size_t>(length, 42));
    frame.resize(length);
    auto result = run(frame);
    if (result.error == 0) {
      ++accepted;
      longest = std::max(longest, length);
      EXPECT_TRUE(result.verdict == XDP_PASS || result.verdict == XDP_REDIRECT) << length;
      ASSERT_NO_FATAL_FAILURE(expect_agreement(frame, fmt::format("{} bytes", length)));
    } else {
      EXPECT_EQ(result.error, EINVAL) << length;
    }
  }
  EXPECT_GE(longest, 3000u);  // a page less head and tail room: Sluice takes no multi-buffer frames
  EXPECT_GE(accepted, 2900u);
}

TEST_F(ParseTest, Malicious_RandomBytesAreReadAsTheNaiveParserReadsThem) {
  RandomTraffic random(99);
  for (int n = 0; n < 20'000; ++n) {
    Bytes frame(kLeast + random.below(120));
    for (auto& byte : frame) {
      byte = static_cast<std::uint8_t>(random.below(256));
    }
    if (n % 2 == 0) {  // else hardly one would get behind the EtherType
      testing::put16(frame, 12, n % 4 == 0 ? 0x0800 : 0x86dd);
    }
    ASSERT_NO_FATAL_FAILURE(expect_agreement(frame, fmt::format("random frame {}", n)));
  }
}

}  // namespace
}  // namespace sluice
