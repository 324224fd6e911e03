// Real tap devices in namespaces of the test's own; the host's end is the kernel's stack or a packet socket.
#include "port/tap/tap_port.h"

#include <arpa/inet.h>
#include <cap-ng.h>
#include <gtest/gtest.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "port/burst_of.h"
#include "port/fake_services.h"
#include "port/tap/tap_lane.h"
#include "port/vlan.h"
#include "test/support/net_ns.h"

namespace sluice {
namespace {

using Frame = std::vector<std::byte>;

constexpr PortId kPort{7}, kNic{42};
constexpr MacAddress kMac{2, 0, 0, 0, 0, 7}, kPeer{2, 0, 0, 0, 0, 8};

template <typename Done>
bool until(Done&& done) {
  const std::uint64_t deadline = now_ns() + 20'000'000'000;
  while (!done()) {
    if (now_ns() > deadline) {
      return false;
    }
  }
  return true;
}

// Bytes count up behind the header. `bytes`: without the tag that a `vlan` above 0 asks for.
Frame frame_for(const MacAddress& to, std::size_t bytes, std::uint16_t vlan = 0) {
  Frame frame;
  auto append = [&frame](std::initializer_list<int> values) {
    for (int value : values) {
      frame.push_back(static_cast<std::byte>(value));
    }
  };
  for (const MacAddress& mac : {to, kPeer}) {
    for (std::uint8_t byte : mac) {
      frame.push_back(std::byte{byte});
    }
  }
  if (vlan != 0) {
    append({0x81, 0x00, vlan >> 8, vlan & 0xff});
    bytes += kVlanTagBytes;
  }
  append({0x88, 0xb5});
  for (std::size_t value = 14; frame.size() < bytes; ++value) {
    frame.push_back(static_cast<std::byte>(value));
  }
  return frame;
}

// A program on the host that reads and writes whole frames on the device.
class HostEnd {
 public:
  HostEnd(const test::NetNs& ns, int ifindex) {
    ns.run([&] { socket_.reset(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)); });
    address_.sll_family = AF_PACKET;
    address_.sll_protocol = htons(ETH_P_ALL);
    address_.sll_ifindex = ifindex;
    const int on = 1;
    SLUICE_CHECK(
        socket_ && ::setsockopt(socket_.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on) == 0 &&
            ::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof address_) == 0,
        "packet socket: errno {}", errno);
  }
  void send(const Frame& frame) {
    ASSERT_EQ(::sendto(socket_.get(), frame.data(), frame.size(), 0,
                       reinterpret_cast<const sockaddr*>(&address_), sizeof address_),
              static_cast<ssize_t>(frame.size()))
        << std::strerror(errno);
  }
  Frame receive() {
    Frame frame(65536);
    ssize_t got = -1;
    EXPECT_TRUE(until([&] { return (got = ::recv(socket_.get(), frame.data(), frame.size(), 0)) >= 0; }));
    frame.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
    return frame;
  }
  bool nothing_waits() {
    std::byte byte;
    return ::recv(socket_.get(), &byte, 1, MSG_PEEK) < 0 && errno == EAGAIN;
  }

 private:
  UniqueFd socket_;
  sockaddr_ll address_{};
};

class TapPortTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SLUICE_NEED_ROOT_AND_XDP();
    ns_.emplace(test::NetNs::create().value());
  }

  static TapPortOptions defaults() {
    return {.id = kPort,
            .name = "host0",
            .netdev = "host0",
            .mac = kMac,
            .addresses = {},
            .mtu = 1500,
            .vlan = 0,
            .uplink = kNic,
            .workers = {WorkerId{0}}};
  }
  Result<std::unique_ptr<TapPort>> create(TapPortOptions options) {
    return ns_->in([&] { return TapPort::create(std::move(options), host_.services()); });
  }
  void begin(TapPortOptions options = defaults()) {
    auto port = create(std::move(options));
    ASSERT_TRUE(port) << port.error().message;
    port_ = std::move(*port);
    end_.emplace(*ns_, port_->ifindex());
  }
  std::string error_of(TapPortOptions options) {
    auto port = create(std::move(options));
    return port ? "no error" : port.error().message;
  }

  Lane& lane(std::uint16_t worker = 0) { return host_.lane(kPort, WorkerId{worker}); }
  void to_host(const Frame& frame, std::uint16_t head_bytes = 0, std::uint16_t worker = 0) {
    Packet packet{.body = frame.data() + head_bytes,
                  .head = head_bytes == 0 ? nullptr : frame.data(),
                  .body_bytes = static_cast<std::uint32_t>(frame.size()) - head_bytes,
                  .head_bytes = head_bytes};
    lane(worker).copy_in({.port = PortId{9}}, std::span(&packet, 1));
  }
  // What the host has sent, of the tests' own type; checks what each packet says of itself.
  std::vector<Frame> from_host(std::uint16_t worker = 0) {
    std::array<Packet, kBurst> packets;
    const std::uint32_t count = burst_of(lane(worker), packets);
    std::vector<Frame> frames;
    for (const Packet& packet : std::span(packets).first(count)) {
      EXPECT_EQ(packet.port, kNic);
      EXPECT_EQ(packet.page, PageIndex::kNone);
      EXPECT_GE(packet.head_bytes, std::min(packet.bytes(), kMaxHead));
      Frame frame(packet.head, packet.head + packet.head_bytes);
      frame.insert(frame.end(), packet.body, packet.body + packet.body_bytes);
      frames.push_back(std::move(frame));
    }
    lane(worker).done(std::span(packets).first(count));
    return frames;
  }
  std::vector<Frame> from_host(std::size_t count, std::uint16_t worker) {
    std::vector<Frame> all;
    EXPECT_TRUE(until([&] {
      for (Frame& frame : from_host(worker)) {
        all.push_back(std::move(frame));
      }
      return all.size() >= count;
    }));
    return all;
  }
  std::map<std::string, std::uint64_t> counters() const {
    struct Collect : CounterVisitor {
      std::map<std::string, std::uint64_t> values;
      void counter(std::string_view name, std::uint64_t value) override { values[std::string(name)] = value; }
    } collect;
    port_->visit(collect);
    return collect.values;
  }

  std::optional<test::NetNs> ns_;
  test::FakeServices host_;
  std::unique_ptr<TapPort> port_;
  std::optional<HostEnd> end_;
};

TEST_F(TapPortTest, IsADeviceWithTheAddressesThatItWasGiven) {
  TapPortOptions options = defaults();
  options.addresses = {"10.78.0.1/24", "10.79.0.1/16"};
  options.mtu = 9000;
  begin(options);
  const std::string shown = ns_->command("ip addr show dev host0").output;
  for (const char* part : {"02:00:00:00:00:07", "mtu 9000", "inet 10.78.0.1/24", "inet 10.79.0.1/16",
                           "LOWER_UP", "MULTICAST", "BROADCAST"}) {
    EXPECT_NE(shown.find(part), std::string::npos) << part << " in " << shown;
  }
  port_.reset();
  EXPECT_FALSE(ns_->command("ip link show dev host0").ok()) << "it goes with the port";
}

TEST_F(TapPortTest, ATurnTakesNoMoreThanItsBytesOfTheLongestFrames) {  // D6
  TapPortOptions options = defaults();
  options.mtu = kMaxHostMtu;
  begin(options);
  const Frame frame = frame_for(kPeer, kMaxHostMtu + 14);
  constexpr std::uint32_t kFrames = 12;
  for (std::uint32_t i = 0; i < kFrames; ++i) {
    end_->send(frame);
  }
  std::uint32_t taken = 0;
  bool stopped = false;
  EXPECT_TRUE(until([&] {
    std::array<Packet, kBurst> packets;
    BurstInfo info;
    const std::span burst = std::span(packets).first(lane().burst(packets, info));
    std::uint64_t bytes = 0;
    for (const Packet& packet : burst) {
      bytes += packet.bytes();
    }
    EXPECT_LE(bytes, kTurnBytes);
    stopped |= info.more;
    taken += static_cast<std::uint32_t>(burst.size());
    lane().done(burst);
    return taken == kFrames;
  }));
  EXPECT_TRUE(stopped);
}

TEST_F(TapPortTest, CarriesFramesOfEveryLengthBothWaysUnchanged) {
  begin();
  for (std::size_t bytes : {14u, 15u, 18u, 60u, 127u, 128u, 129u, 1000u, 1514u}) {
    const Frame in = frame_for(kMac, bytes);
    to_host(in);
    EXPECT_EQ(end_->receive(), in) << bytes;
    to_host(in, static_cast<std::uint16_t>(std::min<std::size_t>(bytes, 128)));
    EXPECT_EQ(end_->receive(), in) << bytes << " with a head";
    const Frame out = frame_for(kPeer, bytes);
    end_->send(out);
    EXPECT_EQ(from_host(1, 0).at(0), out) << bytes;
  }
  auto now = counters();
  EXPECT_EQ(now["copied"], 18u);
  EXPECT_EQ(now["rx_packets"], 18u);
  EXPECT_EQ(now["tx_packets"], 9u);
  EXPECT_EQ(now["copied_bytes"], 2 * now["tx_bytes"]);
}

TEST_F(TapPortTest, AnAccessVlanIsPushedOnTheWayInAndPoppedOnTheWayOut) {
  TapPortOptions options = defaults();
  options.vlan = 77;
  begin(options);
  end_->send(frame_for(kPeer, 200));
  EXPECT_EQ(from_host(1, 0).at(0), frame_for(kPeer, 200, 77));
  end_->send(frame_for(kPeer, 1514));
  EXPECT_EQ(from_host(1, 0).at(0), frame_for(kPeer, 1514, 77)) << "the longest frame has room for the tag";
  to_host(frame_for(kMac, 200, 78));  // dropped
  to_host(frame_for(kMac, 200));      // dropped
  to_host(frame_for(kMac, 200, 77));
  EXPECT_EQ(end_->receive(), frame_for(kMac, 200));
  to_host(frame_for(kMac, 200, 77), 128);
  EXPECT_EQ(end_->receive(), frame_for(kMac, 200));
  end_->send(frame_for(kPeer, 60, 5));  // a VLAN device on top of an access port: dropped
  end_->send(frame_for(kPeer, 60));
  EXPECT_EQ(from_host(1, 0).at(0), frame_for(kPeer, 60, 77));
  EXPECT_EQ(counters()["drop_vlan"], 2u);
  EXPECT_EQ(counters()["drop_tx_vlan"], 1u);
  EXPECT_TRUE(end_->nothing_waits());
}

TEST_F(TapPortTest, WithoutAVlanTagsGoAsTheyAre) {
  begin();
  end_->send(frame_for(kPeer, 60, 5));
  EXPECT_EQ(from_host(1, 0).at(0), frame_for(kPeer, 60, 5));
}

TEST_F(TapPortTest, HasAQueuePerWorkerAndEachCarriesBothWays) {
  TapPortOptions options = defaults();
  options.workers = {WorkerId{3}, WorkerId{5}};
  begin(options);
  for (std::uint16_t worker : std::array<std::uint16_t, 2>{3, 5}) {
    to_host(frame_for(kMac, 60), 0, worker);
    EXPECT_EQ(end_->receive(), frame_for(kMac, 60));
  }
  // The kernel chooses the queue by the flow's hash; every frame comes out of one of them, once.
  std::size_t got = 0;
  for (int i = 0; i < 100; ++i) {
    end_->send(frame_for(kPeer, static_cast<std::size_t>(60 + i)));
  }
  EXPECT_TRUE(until([&] { return (got += from_host(3).size() + from_host(5).size()) >= 100; }));
  EXPECT_EQ(got, 100u);
}

TEST_F(TapPortTest, AWorkerThatDoesNotServeDeliversAndTakesNothing) {
  TapPortOptions options = defaults();
  options.workers = {WorkerId{3}, WorkerId{5}};
  options.serving = 1;
  begin(options);
  to_host(frame_for(kMac, 60), 0, 5);
  EXPECT_EQ(end_->receive(), frame_for(kMac, 60));
  for (int i = 0; i < 100; ++i) {
    end_->send(frame_for(kPeer, static_cast<std::size_t>(60 + i)));
  }
  EXPECT_EQ(from_host(100, 3).size(), 100u) << "all of them, whatever the flow";
  end_->send(frame_for(kPeer, 60));
  EXPECT_TRUE(until([&] { return lane(3).prepare_sleep(); }));
  EXPECT_FALSE(lane(5).prepare_sleep());
  EXPECT_EQ(lane(5).wake_fd(), -1);
  EXPECT_TRUE(from_host(5).empty());
}

TEST_F(TapPortTest, ABurstIsBounded) {  // D6
  begin();
  for (int i = 0; i < 100; ++i) {
    end_->send(frame_for(kPeer, 60));
  }
  EXPECT_EQ(from_host().size(), kBurst);
  EXPECT_EQ(from_host().size(), 100 - kBurst);
  EXPECT_EQ(from_host().size(), 0u);
}

TEST_F(TapPortTest, ADeviceThatIsDownDropsAndCounts) {
  begin();
  ns_->command("ip link set host0 down");
  const Frame frame = frame_for(kMac, 60);
  std::array<Packet, 3> packets;
  packets.fill(Packet{.body = frame.data(), .body_bytes = 60});
  lane().copy_in({}, packets);
  EXPECT_EQ(counters()["drop_link_down"], 3u);
  EXPECT_EQ(from_host().size(), 0u);
  ns_->command("ip link set host0 up");
  HostEnd end(*ns_, port_->ifindex());
  to_host(frame);
  EXPECT_EQ(end.receive(), frame);
}

TEST_F(TapPortTest, Crash_ADeviceThatIsDeletedDropsAndCounts) {
  begin();
  ns_->command("ip link del host0");
  to_host(frame_for(kMac, 60));
  EXPECT_EQ(from_host().size(), 0u);
  EXPECT_EQ(counters()["drop_link_down"], 1u);
  EXPECT_GE(counters()["read_errors"], 1u);
}

TEST_F(TapPortTest, Malicious_FramesThatTheKernelTakesNotAreRefusedAndCounted) {
  begin();
  to_host(frame_for(kMac, 14), 0);
  EXPECT_EQ(end_->receive().size(), 14u);
  Frame shorter(13);
  to_host(shorter);
  to_host(Frame(1));
  EXPECT_EQ(counters()["drop_refused"], 2u);
}

TEST_F(TapPortTest, FramesLongerThanTheMtuThatItWasMadeWithAreDroppedAndCounted) {
  begin();
  ns_->command("ip link set host0 mtu 9000");
  end_->send(frame_for(kPeer, 4000));
  end_->send(frame_for(kPeer, 60));
  EXPECT_EQ(from_host(1, 0).at(0).size(), 60u);
  EXPECT_EQ(counters()["drop_too_long"], 1u);
}

TEST_F(TapPortTest, TheDescriptorIsReadableWhileTheHostHasSomethingForUs) {
  begin();
  auto readable = [&](int timeout_ms) {
    pollfd ask{.fd = lane().wake_fd(), .events = POLLIN, .revents = 0};
    return ::poll(&ask, 1, timeout_ms) == 1;
  };
  EXPECT_FALSE(readable(0));
  end_->send(frame_for(kPeer, 60));
  EXPECT_TRUE(readable(10'000));
  from_host(1, 0);
  EXPECT_FALSE(readable(0));
}

TEST_F(TapPortTest, TheKernelsStackAnswersOnIt) {
  TapPortOptions options = defaults();
  options.addresses = {"10.78.0.1/24"};
  begin(options);
  Frame ask = frame_for({0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 42);  // who has 10.78.0.1, tell 10.78.0.2
  const std::uint8_t arp[] = {0x08, 0x06, 0,  1, 8, 0, 6, 4, 0, 1, 2, 0,  0,  0, 0,
                              8,    10,   78, 0, 2, 0, 0, 0, 0, 0, 0, 10, 78, 0, 1};
  std::memcpy(ask.data() + 12, arp, sizeof arp);
  to_host(ask);
  const Frame answer = from_host(1, 0).at(0);
  ASSERT_GE(answer.size(), 42u);
  EXPECT_EQ(std::memcmp(answer.data(), kPeer.data(), 6), 0);
  EXPECT_EQ(std::memcmp(answer.data() + 6, kMac.data(), 6), 0);
  EXPECT_EQ(load_be16(answer.data() + 20), 2) << "an ARP reply";
}

TEST_F(TapPortTest, SaysInASentenceWhatCannotBe) {
  begin();
  EXPECT_EQ(error_of(defaults()), "port host0: there is a network device host0 already");
  TapPortOptions options = defaults();
  options.netdev = "host%d";
  EXPECT_NE(error_of(options).find("\"host%d\" cannot be the name of a network device"), std::string::npos);
  options.netdev = "sixteen-letters-";
  EXPECT_NE(error_of(options).find("cannot be the name"), std::string::npos);
  options.netdev = "host1";
  options.addresses = {"banana"};
  EXPECT_EQ(error_of(options),
            "port host0: tap device host1: \"banana\" is no address (192.0.2.1/24, 2001:db8::1/64)");
  options.addresses = {"02:00:00:00:00:01"};
  EXPECT_NE(error_of(options).find("is no IP address"), std::string::npos) << error_of(options);
  options.addresses = {"10.0.0.1/24", "10.0.0.1/24"};
  EXPECT_NE(error_of(options).find("cannot set address 10.0.0.1/24"), std::string::npos) << error_of(options);
  options.addresses = {};
  options.mtu = 67;
  EXPECT_EQ(error_of(options), "port host0: mtu is 67, must be 68 .. 65521");
  options.mtu = 1500;
  options.mac = {1, 0, 0, 0, 0, 0};  // multicast
  EXPECT_NE(error_of(options).find("cannot set MAC address 01:00:00:00:00:00"), std::string::npos)
      << error_of(options);
  EXPECT_FALSE(ns_->command("ip link show dev host1").ok()) << "an error leaves nothing behind";
}

TEST_F(TapPortTest, WithoutThePrivilegeItNamesIt) {
  std::string error;
  std::thread([&] {  // capabilities are a thread's own
    ns_->enter();
    ::capng_clear(CAPNG_SELECT_CAPS);
    SLUICE_CHECK(::capng_apply(CAPNG_SELECT_CAPS) == 0);
    auto port = TapPort::create(defaults(), host_.services());
    error = port ? "no error" : port.error().message;
  })
      .join();
  EXPECT_EQ(error,
            "port host0: cannot make the tap device host0 (it needs CAP_NET_ADMIN): Operation not permitted");
}

}  // namespace
}  // namespace sluice
