// Real frames on a virtual wire, with the NIC's XDP program in place.
#include "port/nic/broadcast_queue.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "port/nic/nic_fixture.h"
#include "port/vlan.h"

namespace sluice {
namespace {

using Frame = std::vector<std::byte>;

constexpr std::array<std::uint8_t, 6> kBroadcast{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
constexpr std::array<std::uint8_t, 6> kMulticast{0x01, 0x00, 0x5e, 0x00, 0x00, 0x7b};
constexpr std::uint16_t kEtherType = 0x88b5;  // IEEE 802 local experiment

// `bytes` without the tag that `tci` asks for.
Frame frame_to(const std::array<std::uint8_t, 6>& to, std::uint32_t number, std::size_t bytes = 60,
               int tci = -1, std::uint16_t tpid = kVlanTpid) {
  Frame frame(bytes + (tci < 0 ? 0 : kVlanTagBytes));
  std::memcpy(frame.data(), to.data(), 6);
  frame[6] = std::byte{2};
  frame[11] = std::byte{9};
  std::size_t type_at = kVlanTagOffset;
  if (tci >= 0) {
    store_be16(frame.data() + type_at, tpid);
    store_be16(frame.data() + type_at + 2, static_cast<std::uint16_t>(tci));
    type_at += kVlanTagBytes;
  }
  store_be16(frame.data() + type_at, kEtherType);
  std::memcpy(frame.data() + type_at + 2, &number, sizeof number);
  return frame;
}
std::uint32_t number_in(const Frame& frame) {
  std::uint32_t number;
  std::memcpy(&number, frame.data() + 14, sizeof number);
  return number;
}

// Sends whole frames on one link, and sees those of the tests that come in there.
class RawEnd {
 public:
  RawEnd(const test::NetNs& ns, int ifindex) {
    ns.run([&] {
      socket_.reset(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(kEtherType)));
    });
    address_.sll_family = AF_PACKET;
    address_.sll_protocol = htons(kEtherType);
    address_.sll_ifindex = ifindex;
    const auto* address = reinterpret_cast<const sockaddr*>(&address_);
    SLUICE_CHECK(socket_ && ::bind(socket_.get(), address, sizeof address_) == 0, "packet socket: errno {}",
                 errno);
  }
  void send(const Frame& frame) {
    const auto sent = ::sendto(socket_.get(), frame.data(), frame.size(), 0,
                               reinterpret_cast<const sockaddr*>(&address_), sizeof address_);
    ASSERT_EQ(sent, static_cast<ssize_t>(frame.size())) << std::strerror(errno);
  }
  bool receive() {
    std::array<std::byte, 64> frame;
    return ::recv(socket_.get(), frame.data(), frame.size(), 0) > 0;
  }

 private:
  UniqueFd socket_;
  sockaddr_ll address_{};
};

class BroadcastQueueTest : public NicTest {
 protected:
  void begin(std::uint32_t mtu = 1500) {
    wire(1, mtu);
    program_.emplace();
    link_.emplace(attach(program_->fd()).value());
    auto queue = nic_ns_->in([&] {
      return BroadcastQueue::open({.netdev = pair_->options().nic_name,
                                   .ifindex = pair_->nic_ifindex(),
                                   .nic = NicId{3},
                                   .port = PortId{42}});
    });
    ASSERT_TRUE(queue) << queue.error().message;
    queue_ = std::move(*queue);
    wire_.emplace(pair_->wire_ns(), pair_->wire_ifindex());
  }
  // One burst; only what the tests send, not what the kernel does by itself.
  std::vector<Frame> burst() {
    std::array<Packet, kBurst> packets;
    BurstInfo info;
    const std::uint32_t count = queue_->burst(packets, info);
    std::vector<Frame> frames;
    for (const Packet& packet : std::span(packets).first(count)) {
      EXPECT_EQ(packet.port, PortId::kFlood);
      EXPECT_EQ(packet.page, PageIndex::kNone);
      EXPECT_EQ(packet.head_bytes, 0u);
      EXPECT_EQ(info.uplink, PortId{42});
      EXPECT_EQ(info.port, PortId::kKernel);
      EXPECT_EQ(info.nic, NicId{3});
      Frame frame(packet.body, packet.body + packet.body_bytes);
      const std::size_t type_at = vlan_of(front_of(packet)) != 0 ? 16 : 12;
      if (load_be16(frame.data() + type_at) == kEtherType || load_be16(frame.data() + 12) != 0x0800) {
        frames.push_back(std::move(frame));
      }
    }
    if (count != 0) {
      queue_->done(std::span(packets).first(count));
    }
    return frames;
  }
  std::vector<Frame> receive(std::size_t count) {
    std::vector<Frame> all;
    EXPECT_TRUE(until([&] {
      for (Frame& frame : burst()) {
        all.push_back(std::move(frame));
      }
      return all.size() >= count;
    })) << all.size()
        << " frames came";
    return all;
  }
  // The mark is sent behind what must not come, and so comes first.
  void expect_nothing_before(std::uint32_t mark) {
    wire_->send(frame_to(kBroadcast, mark));
    const auto frames = receive(1);
    ASSERT_EQ(frames.size(), 1u);
    EXPECT_EQ(number_in(frames[0]), mark);
  }
  std::map<std::string, std::uint64_t> counters() const {
    Counters all;
    queue_->visit(all);
    return all.values;
  }

  std::optional<Program> program_;
  std::optional<XdpLink> link_;
  std::unique_ptr<BroadcastQueue> queue_;
  std::optional<RawEnd> wire_;
};

TEST_F(BroadcastQueueTest, BringsBroadcastAndMulticastFromTheWireAndNothingElse) {
  begin();
  wire_->send(frame_to({2, 0, 0, 0, 0, 1}, 1));  // the NIC's own
  wire_->send(frame_to({2, 0, 0, 0, 0, 77}, 2));
  wire_->send(frame_to(kBroadcast, 3));
  wire_->send(frame_to(kMulticast, 4, 1514));
  const auto frames = receive(2);
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_EQ(frames[0], frame_to(kBroadcast, 3));
  EXPECT_EQ(frames[1], frame_to(kMulticast, 4, 1514));
  EXPECT_EQ(counters()["rx_packets"], 2u);
  EXPECT_EQ(counters()["rx_bytes"], 1574u);
}

TEST_F(BroadcastQueueTest, TheKernelHearsTheSame) {
  begin();
  pair_->wire_ns().command("ip neigh flush all");
  const auto ping = pair_->wire_ns().command("ping -c 1 -W 5 " + pair_->options().nic_ip);
  EXPECT_TRUE(ping.ok()) << ping.output;
  const auto frames = receive(1);
  ASSERT_EQ(frames.size(), 1u);
  EXPECT_EQ(load_be16(frames[0].data() + 12), 0x0806) << "the request that the kernel has answered";
}

TEST_F(BroadcastQueueTest, DoesNotBringWhatTheHostSends) {
  begin();
  RawEnd host(*nic_ns_, pair_->nic_ifindex());
  host.send(frame_to(kBroadcast, 1));
  nic_ns_->command("ping -c 1 -W 1 10.77.0.99");  // an ARP request that nobody answers
  expect_nothing_before(2);
}

TEST_F(BroadcastQueueTest, DoesNotBringWhatLeavesByAfXdp) {
  begin();
  auto arena = memory(pages());
  auto pool = arena.pool(pages());
  auto nic = open(queue_options(), *arena.umem, *pool).value();
  const Frame frame = frame_to(kBroadcast, 1);
  Packet packet{.head = frame.data(), .head_bytes = 60};
  nic->copy_in({.port = PortId{9}}, std::span(&packet, 1));
  EXPECT_TRUE(until([&] {
    nic->poll();
    return !nic->prepare_sleep();
  }));
  EXPECT_TRUE(until([&] { return wire_->receive(); }));
  expect_nothing_before(2);
}

TEST_F(BroadcastQueueTest, PutsTheTagBackThatTheKernelTookOut) {
  begin();
  wire_->send(frame_to(kBroadcast, 1, 60, 0xa000 | 77));
  wire_->send(frame_to(kBroadcast, 2, 1514, 5));
  wire_->send(frame_to(kBroadcast, 3, 60, 6, 0x88a8));
  const auto frames = receive(3);
  ASSERT_EQ(frames.size(), 3u);
  EXPECT_EQ(frames[0], frame_to(kBroadcast, 1, 60, 0xa000 | 77));
  EXPECT_EQ(frames[1], frame_to(kBroadcast, 2, 1514, 5));
  EXPECT_EQ(frames[2], frame_to(kBroadcast, 3, 60, 6, 0x88a8));
}

TEST_F(BroadcastQueueTest, KeepsTheOrderForManyRoundsOfTheRing) {
  begin();
  std::uint32_t sent = 0, next = 0;
  while (next < 5 * BroadcastQueue::kFrames) {
    for (; sent < next + 100; ++sent) {
      wire_->send(frame_to(kBroadcast, sent));
    }
    for (const Frame& frame : receive(1)) {
      ASSERT_EQ(number_in(frame), next++);
    }
  }
  EXPECT_EQ(counters()["drop_broadcast_ring_full"], 0u);
}

TEST_F(BroadcastQueueTest, CountsWhatFindsTheRingFullAndGoesOnAfterwards) {
  begin();
  RawEnd host(*nic_ns_, pair_->nic_ifindex());
  for (std::uint32_t i = 0; i < 2 * BroadcastQueue::kFrames; ++i) {
    wire_->send(frame_to(kBroadcast, i));
    // One at a time: veth itself queues only so many.
    ASSERT_TRUE(until([&] { return host.receive(); }));
  }
  const auto frames = receive(BroadcastQueue::kFrames);
  EXPECT_EQ(frames.size(), BroadcastQueue::kFrames);
  EXPECT_EQ(counters()["drop_broadcast_ring_full"], BroadcastQueue::kFrames);
  EXPECT_EQ(counters()["drop_broadcast_ring_full"], BroadcastQueue::kFrames) << "reading it forgets nothing";
  expect_nothing_before(9999);
}

TEST_F(BroadcastQueueTest, DropsAndCountsFramesLongerThanASlot) {
  begin(3000);
  wire_->send(frame_to(kBroadcast, 1, 2500));
  expect_nothing_before(2);
  EXPECT_EQ(counters()["drop_too_long"], 1u);
}

TEST_F(BroadcastQueueTest, WakesASleepingWorkerAndLetsItSleepAgain) {
  begin();
  auto readable = [&](int timeout_ms) {
    pollfd ask{.fd = queue_->wake_fd(), .events = POLLIN, .revents = 0};
    return ::poll(&ask, 1, timeout_ms) == 1;
  };
  EXPECT_FALSE(queue_->prepare_sleep());
  EXPECT_FALSE(readable(0));
  wire_->send(frame_to(kBroadcast, 1));
  EXPECT_TRUE(readable(10'000));
  EXPECT_TRUE(queue_->prepare_sleep());
  queue_->woken();
  receive(1);
  EXPECT_FALSE(readable(0));

  nic_ns_->command("ip link set nic0 down");
  EXPECT_TRUE(readable(10'000)) << "the kernel says that the NIC is down";
  queue_->woken();
  EXPECT_FALSE(readable(0)) << "but only once";
  nic_ns_->command("ip link set nic0 up");
  EXPECT_TRUE(until([&] {
    wire_->send(frame_to(kBroadcast, 2));
    return !burst().empty();
  }));
}

TEST_F(BroadcastQueueTest, Crash_ANicThatVanishesLeavesAQueueThatIsQuiet) {
  begin();
  wire_.reset();
  link_.reset();
  pair_->remove();
  std::array<Packet, kBurst> packets;
  BurstInfo info;
  EXPECT_TRUE(until([&] {
    queue_->woken();
    pollfd ask{.fd = queue_->wake_fd(), .events = POLLIN, .revents = 0};
    return ::poll(&ask, 1, 0) == 0;
  }));
  EXPECT_EQ(queue_->burst(packets, info), 0u);
  EXPECT_FALSE(queue_->prepare_sleep());
}

TEST_F(BroadcastQueueTest, TellsTheNicWhichAddressesToTakeIn) {
  begin();
  auto taken_in = [&](const char* mac) {
    return nic_ns_->command("bridge fdb show dev nic0").output.find(mac) != std::string::npos;
  };
  const MacAddress a{2, 0, 0, 0, 1, 0xaa}, b{2, 0, 0, 0, 1, 0xbb}, c{2, 0, 0, 0, 1, 0xcc};
  auto accept = [&](std::initializer_list<MacAddress> macs) {
    const std::vector<MacAddress> list(macs);
    auto done = queue_->accept(list);
    ASSERT_TRUE(done) << done.error().message;
  };
  accept({a, b, b});
  EXPECT_TRUE(taken_in("02:00:00:00:01:aa") && taken_in("02:00:00:00:01:bb"));
  accept({b, c});
  EXPECT_FALSE(taken_in("02:00:00:00:01:aa"));
  EXPECT_TRUE(taken_in("02:00:00:00:01:bb") && taken_in("02:00:00:00:01:cc"));
  queue_.reset();
  EXPECT_TRUE(until([&] { return !taken_in("02:00:00:00:01:bb") && !taken_in("02:00:00:00:01:cc"); }));
}

TEST_F(BroadcastQueueTest, RefusesANicThatIsNotThereInASentence) {
  begin();
  auto queue = nic_ns_->in([&] {
    return BroadcastQueue::open({.netdev = "gone0", .ifindex = 9999, .nic = NicId{0}, .port = PortId{2}});
  });
  ASSERT_FALSE(queue);
  EXPECT_EQ(queue.error().message,
            "gone0: broadcasts from the wire: cannot bind a packet socket: No such device");
}

}  // namespace
}  // namespace sluice
