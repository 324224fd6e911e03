// NicQueue with real traffic on a real (virtual) wire.
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "port/nic/nic_fixture.h"

namespace sluice {
namespace {

using test::LiveFramesOptions;

constexpr std::uint64_t kWindow = 512;  // packets on their way at one time: half of what the rings take

// Receives until `sequences` numbers have come, each once; checks what every packet says of itself.
class Receiver {
 public:
  Receiver(std::uint64_t sequences, const Arena& arena, test::Frame expected)
      : seen_(sequences, 0), arena_(arena), expected_(std::move(expected)) {}

  std::uint32_t turn(NicQueue& queue, QueueId id) {
    Source source;
    std::uint32_t count = queue.receive(packets_, source);
    for (std::uint32_t i = 0; i < count; ++i) {
      check(packets_[i]);
    }
    if (count != 0) {
      EXPECT_EQ(source.queue, id);
      EXPECT_EQ(source.nic, NicId{3});
      EXPECT_EQ(source.domain, DomainId::kHost);
      EXPECT_EQ(source.port, PortId::kKernel);
      EXPECT_NE(source.timestamp_ns, 0u);
    }
    queue.recycle(std::span(packets_.data(), count));
    queue.poll();
    received_ += count;
    allowed.store(received_ + kWindow, std::memory_order_relaxed);
    return count;
  }
  std::atomic<std::uint64_t> allowed{kWindow};  // for LiveFramesOptions
  std::uint64_t received() const { return received_; }
  void expect_each_once() const {
    std::uint64_t lost = 0, doubled = 0;
    for (std::uint8_t times : seen_) {
      lost += times == 0 ? 1 : 0;
      doubled += times > 1 ? 1 : 0;
    }
    EXPECT_EQ(lost, 0u);
    EXPECT_EQ(doubled, 0u);
    EXPECT_EQ(wrong_, 0u);
  }

 private:
  void check(const Packet& packet) {
    std::uint64_t sequence = test::sequence_of(packet.body);
    bool right = packet.head_bytes == 0 && packet.body_bytes == expected_.size() && packet.port == PortId{9} &&
                 packet.rule == 77 && packet.flow_hash == 4000 + sequence % 5 && packet.page != PageIndex::kNone &&
                 packet.body == arena_.page(packet.page) + packet.page_offset && sequence < seen_.size();
    // Behind checksum and sequence number the frame is the template; so are the addresses in front.
    right = right && std::memcmp(packet.body, expected_.data(), test::kSourcePortOffset) == 0 &&
            std::memcmp(packet.body + 50, expected_.data() + 50, expected_.size() - 50) == 0;
    if (right) {
      ++seen_[sequence];
    } else {
      ++wrong_;
    }
  }

  std::array<Packet, kBurst> packets_;
  std::vector<std::uint8_t> seen_;
  const Arena& arena_;
  test::Frame expected_;
  std::uint64_t received_ = 0, wrong_ = 0;
};

class NicQueueSize : public NicTest, public ::testing::WithParamInterface<std::size_t> {};

TEST_P(NicQueueSize, ReceivesEveryPacketOnceWithContentAndMetadata) {
  wire();
  Memory memory = this->memory(pages());
  auto pool = memory.pool(pages());
  {
    auto queue = open(queue_options(), *memory.umem, *pool);
    ASSERT_TRUE(queue) << queue.error().message;
    EXPECT_FALSE((*queue)->zero_copy());
    Program program;
    auto link = attach(program.fd());
    ASSERT_TRUE(link) << link.error().message;
    EXPECT_TRUE(link->native());
    program.set_socket(0, (*queue)->socket_fd());

    test::UdpFrame udp = pair_->to_nic();
    udp.frame_bytes = GetParam();
    LiveFramesOptions options;
    options.frame = test::udp_frame(udp);
    options.count = 20'000;
    options.source_ports = 5;
    Receiver receiver(options.count, *memory.arena, options.frame);
    options.allowed = &receiver.allowed;
    auto live = load(options);
    live->start();
    EXPECT_TRUE(until([&] {
      receiver.turn(**queue, QueueId{0});
      return receiver.received() >= options.count;
    })) << receiver.received() << " of " << live->sent() << ", pages in flight " << pool->inflight();
    EXPECT_EQ(live->wait().value(), options.count);
    receiver.expect_each_once();
    auto values = counters(**queue);
    EXPECT_EQ(values["rx_packets"], options.count);
    EXPECT_EQ(values["rx_bytes"], options.count * GetParam());
    for (const char* none : {"drop_no_metadata", "rx_dropped", "rx_ring_full", "rx_fill_ring_empty_descs", "fault_rx_page",
                             "fault_tx_page", "rx_invalid_descs"}) {
      EXPECT_TRUE(values.contains(none)) << none;
      EXPECT_EQ(values[none], 0u) << none;
    }
  }
  EXPECT_EQ(pool->inflight(), 0u);
}

INSTANTIATE_TEST_SUITE_P(FrameBytes, NicQueueSize, ::testing::Values(60, 61, 590, 1514));

TEST_F(NicTest, APacketWithoutMetadataIsForNobodyAndCounted) {
  wire();
  Memory memory = this->memory(pages());
  auto pool = memory.pool(pages());
  auto queue = open(queue_options(), *memory.umem, *pool).value();
  Program program;
  program.with_metadata(false);
  auto link = attach(program.fd()).value();
  program.set_socket(0, queue->socket_fd());
  LiveFramesOptions options;
  options.count = 10;
  load(options)->run().value();
  std::array<Packet, kBurst> packets;
  Source source;
  std::uint32_t count = 0;
  ASSERT_TRUE(until([&] { return (count = queue->receive(packets, source)) != 0; }));
  EXPECT_EQ(packets[0].port, PortId::kDrop);
  EXPECT_EQ(packets[0].rule, raw(RuleSlot::kNone));
  EXPECT_EQ(counters(*queue)["drop_no_metadata"], count);
  queue->recycle(std::span(packets.data(), count));
}

// Everything that comes out of the wire end, by a packet socket.
class WireTap {
 public:
  WireTap(const test::VethPair& pair) {
    pair.wire_ns().run([&] { fd_.reset(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_IP))); });
    SLUICE_CHECK(fd_, "packet socket: errno {}", errno);
    int bytes = 64 << 20;
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_IP);
    address.sll_ifindex = pair.wire_ifindex();
    SLUICE_CHECK(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0, "errno {}", errno);
  }
  // The next frame; empty: none now.
  test::Frame next() {
    test::Frame frame(65536);
    sockaddr_ll from{};
    socklen_t from_bytes = sizeof(from);
    ssize_t got = ::recvfrom(fd_.get(), frame.data(), frame.size(), 0, reinterpret_cast<sockaddr*>(&from), &from_bytes);
    if (got <= 0 || from.sll_pkttype == PACKET_OUTGOING) {
      return {};
    }
    frame.resize(static_cast<std::size_t>(got));
    return frame;
  }

 private:
  UniqueFd fd_;
};

// Frames of a peer, with a head and a body that lie in different places.
struct Outgoing {
  std::vector<test::Frame> frames;
  std::vector<Packet> packets;
  Outgoing(const test::VethPair& pair, std::uint32_t count, std::uint32_t first, std::uint32_t head_bytes) {
    for (std::uint32_t i = 0; i < count; ++i) {
      test::UdpFrame udp;
      udp.destination = pair.options().wire_mac;
      udp.source = pair.options().nic_mac;
      udp.frame_bytes = 60 + (first + i) % 1400;
      frames.push_back(test::udp_frame(udp));
      std::uint64_t sequence = first + i;
      std::memcpy(frames.back().data() + test::kPayloadOffset, &sequence, 8);
    }
    for (test::Frame& frame : frames) {
      Packet packet;
      packet.head = frame.data();
      packet.head_bytes = head_bytes;
      packet.body = frame.data() + head_bytes;
      packet.body_bytes = static_cast<std::uint32_t>(frame.size()) - head_bytes;
      packets.push_back(packet);
    }
  }
};

TEST_F(NicTest, CopiedFramesLeaveWholeAndTheirPagesComeHome) {
  wire();
  Memory memory = this->memory(pages());
  auto pool = memory.pool(pages());
  {
    auto queue = open(queue_options(), *memory.umem, *pool).value();
    std::uint32_t filled = pool->inflight();
    WireTap tap(*pair_);
    constexpr std::uint32_t kFrames = 3000;
    std::uint32_t offered = 0, arrived = 0;
    ASSERT_TRUE(until([&] {
      if (offered < kFrames && offered - arrived < 256) {
        Outgoing out(*pair_, 50, offered, 42);
        queue->copy_in(Source{.domain = DomainId{9}}, out.packets);
        offered += 50;
      }
      queue->poll();
      for (test::Frame frame = tap.next(); !frame.empty(); frame = tap.next()) {
        Outgoing expected(*pair_, 1, arrived, 42);
        EXPECT_EQ(frame, expected.frames[0]);
        ++arrived;
      }
      return arrived == kFrames;
    })) << arrived << " of " << offered;
    auto values = counters(*queue);
    EXPECT_EQ(values["tx_packets"], kFrames);
    EXPECT_EQ(values["tx_copied"], kFrames);
    EXPECT_EQ(values["drop_tx_ring_full"], 0u);
    EXPECT_TRUE(until([&] {
      queue->poll();
      return pool->inflight() == filled;
    }));
  }
  EXPECT_EQ(pool->inflight(), 0u);
}

TEST_F(NicTest, AReceivedPageIsSentOnWithoutACopy) {
  wire();
  Memory memory = this->memory(pages());
  auto pool = memory.pool(pages());
  {
    auto queue = open(queue_options(), *memory.umem, *pool).value();
    Program program;
    auto link = attach(program.fd()).value();
    program.set_socket(0, queue->socket_fd());
    WireTap tap(*pair_);
    LiveFramesOptions options;
    options.count = 2000;
    std::atomic<std::uint64_t> allowed{256};
    options.allowed = &allowed;
    auto live = load(options);
    live->start();
    std::vector<bool> back(options.count);
    std::uint32_t arrived = 0;
    EXPECT_TRUE(until([&] {
      std::array<Packet, kBurst> packets;
      Source source;
      std::uint32_t count = queue->receive(packets, source);
      queue->hand_over(source, std::span(packets.data(), count));
      for (std::uint32_t i = 0; i < count; ++i) {
        EXPECT_EQ(packets[i].page, PageIndex::kNone);
      }
      queue->poll();
      for (test::Frame frame = tap.next(); !frame.empty(); frame = tap.next()) {
        back[test::sequence_of(frame.data())] = true;
        ++arrived;
      }
      allowed = arrived + 256;
      return arrived == options.count;
    })) << arrived;
    EXPECT_EQ(std::count(back.begin(), back.end(), true), 2000);
    EXPECT_EQ(counters(*queue)["tx_zero_copy"], 2000u);
  }
  EXPECT_EQ(pool->inflight(), 0u);
}

TEST_F(NicTest, AFullTxRingDropsByNameAndTakesNothing) {
  wire();
  Memory memory = this->memory(pages());
  auto pool = memory.pool(pages());
  auto queue = open(queue_options(), *memory.umem, *pool).value();
  Outgoing out(*pair_, 600, 0, 0);  // of 512 slots
  queue->copy_in(Source{.domain = DomainId{9}}, out.packets);
  auto values = counters(*queue);
  EXPECT_EQ(values["tx_packets"], 512u);
  EXPECT_EQ(values["drop_tx_ring_full"], 88u);
}

TEST_F(NicTest, AFrameLongerThanAPageIsDroppedByName) {
  wire();
  Memory memory = this->memory(pages());
  auto pool = memory.pool(pages());
  auto queue = open(queue_options(), *memory.umem, *pool).value();
  std::vector<std::byte> huge(2049);
  std::array<Packet, 1> packets;
  packets[0].body = huge.data();
  packets[0].body_bytes = 2049;
  queue->copy_in(Source{.domain = DomainId{9}}, packets);
  EXPECT_EQ(counters(*queue)["drop_too_long"], 1u);
  EXPECT_EQ(counters(*queue)["tx_packets"], 0u);
}

TEST_F(NicTest, WithoutAFreePageTxDropsByName) {
  wire();
  Memory memory = this->memory(1024);
  auto pool = memory.pool(1024);  // the fill ring takes them all
  auto queue = open(queue_options(), *memory.umem, *pool).value();
  Outgoing out(*pair_, 3, 0, 0);
  queue->copy_in(Source{.domain = DomainId{9}}, out.packets);
  EXPECT_EQ(counters(*queue)["drop_tx_no_page"], 3u);
}

TEST_F(NicTest, SaysBeforeSleepingThatPacketsAreThere) {
  wire();
  Memory memory = this->memory(pages());
  auto pool = memory.pool(pages());
  auto queue = open(queue_options(), *memory.umem, *pool).value();
  Program program;
  auto link = attach(program.fd()).value();
  program.set_socket(0, queue->socket_fd());
  EXPECT_FALSE(queue->prepare_sleep());
  queue->woken();
  LiveFramesOptions options;
  options.count = 1;
  load(options)->run().value();
  EXPECT_TRUE(until([&] { return queue->prepare_sleep(); }));
  pollfd readable{queue->wake_fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&readable, 1, 0), 1);
}

}  // namespace
}  // namespace sluice
