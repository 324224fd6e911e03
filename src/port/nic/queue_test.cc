// NicQueue with real traffic on a real (virtual) wire.
#include <poll.h>

#include <algorithm>
#include <array>
#include <atomic>

#include "port/nic/nic_fixture.h"
#include "port/nic/nic_traffic.h"

namespace sluice {
namespace {

using test::LiveFramesOptions;

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
    })) << receiver.received()
        << " of " << live->sent() << ", pages in flight " << pool->inflight();
    EXPECT_EQ(live->wait().value(), options.count);
    receiver.expect_each_once();
    auto values = counters(**queue);
    EXPECT_EQ(values["rx_packets"], options.count);
    EXPECT_EQ(values["rx_bytes"], options.count * GetParam());
    for (const char* none : {"drop_no_metadata", "rx_dropped", "rx_ring_full", "rx_fill_ring_empty_descs",
                             "fault_rx_page", "fault_tx_page", "rx_invalid_descs"}) {
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
  BurstInfo info;
  std::uint32_t count = 0;
  ASSERT_TRUE(until([&] { return (count = queue->burst(packets, info)) != 0; }));
  EXPECT_EQ(packets[0].port, PortId::kDrop);
  EXPECT_EQ(packets[0].rule, raw(RuleSlot::kNone));
  EXPECT_EQ(counters(*queue)["drop_no_metadata"], count);
  queue->done(std::span(packets.data(), count));
}

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
      if (offered < kFrames && offered + 50 - arrived <= kWindow) {
        Outgoing out(*pair_, 50, offered, 42);
        queue->copy_in(BurstInfo{.domain = DomainId{9}}, out.packets);
        offered += 50;
      }
      queue->poll();
      for (test::Frame frame = tap.next(); !frame.empty(); frame = tap.next()) {
        Outgoing expected(*pair_, 1, arrived, 42);
        EXPECT_EQ(frame, expected.frames[0]);
        ++arrived;
      }
      return arrived == kFrames;
    })) << arrived
        << " of " << offered;
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
    std::atomic<std::uint64_t> allowed{kWindow};
    options.allowed = &allowed;
    auto live = load(options);
    live->start();
    std::vector<bool> back(options.count);
    std::uint32_t arrived = 0;
    EXPECT_TRUE(until([&] {
      std::array<Packet, kBurst> packets;
      BurstInfo info;
      std::uint32_t count = queue->burst(packets, info);
      queue->hand_over(info, std::span(packets.data(), count));
      for (std::uint32_t i = 0; i < count; ++i) {
        EXPECT_EQ(packets[i].page, PageIndex::kNone);
      }
      queue->poll();
      for (test::Frame frame = tap.next(); !frame.empty(); frame = tap.next()) {
        back[test::sequence_of(frame.data())] = true;
        ++arrived;
      }
      allowed = arrived + kWindow;
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
  queue->copy_in(BurstInfo{.domain = DomainId{9}}, out.packets);
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
  queue->copy_in(BurstInfo{.domain = DomainId{9}}, packets);
  EXPECT_EQ(counters(*queue)["drop_too_long"], 1u);
  EXPECT_EQ(counters(*queue)["tx_packets"], 0u);
}

TEST_F(NicTest, WithoutAFreePageTxDropsByName) {
  wire();
  Memory memory = this->memory(1024);
  auto pool = memory.pool(1024);  // the fill ring takes them all
  auto queue = open(queue_options(), *memory.umem, *pool).value();
  Outgoing out(*pair_, 3, 0, 0);
  queue->copy_in(BurstInfo{.domain = DomainId{9}}, out.packets);
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
