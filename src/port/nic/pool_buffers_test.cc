// PoolBuffers and NicQueue's memory over a kernel that the test plays: below root, without a NIC.
#include "port/nic/pool_buffers.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <vector>

#include "abi/packet_meta.h"
#include "memory/arena.h"
#include "port/nic/umem.h"
#include "xsk/af_xdp_socket.h"
#include "xsk/fake_kernel.h"

namespace sluice {
namespace {

constexpr std::uint32_t kEntries = 64;

// One queue: a pool, its buffers, a socket whose other side the test plays.
struct TestQueue {
  TestQueue(const Arena& arena, std::uint32_t first, std::uint32_t pages, PoolDirectory* pools,
            std::uint32_t most_lent = kEntries, std::uint32_t return_ring = 64) {
    pool =
        PagePool::create(
            arena, {.name = "q", .first = PageIndex{first}, .page_count = pages, .return_ring = return_ring})
            .value();
    if (pools != nullptr) {
      pools->add(*pool, most_lent).value();
    }
    buffers = std::make_unique<PoolBuffers>(*pool, kEntries, pools);
    socket = AfXdpSocket::create(kernel).value();
    EXPECT_TRUE(
        socket.make_rings({.rx = kEntries, .tx = kEntries, .fill = kEntries, .completion = kEntries}));
  }

  // A frame in the next buffer of the fill ring; false: there was none, or no room for the frame.
  bool arrive(const Arena& arena, std::uint32_t bytes, PortId port, bool with_metadata = true) {
    std::uint64_t address = 0;
    if (kernel.rx_room() == 0 || !kernel.take_filled(address)) {
      return false;
    }
    const sluice_packet_meta meta = sluice_meta_of(5, raw(port));
    if (with_metadata) {
      std::memcpy(arena.data() + address + kFrameOffset - sizeof(meta), &meta, sizeof(meta));
    }
    kernel.give_frame({.addr = address + kFrameOffset, .len = bytes, .options = 0});
    return true;
  }
  void post(std::uint32_t count) {
    socket.fill.submit(buffers->post(socket.fill, socket.fill.reserve(count)));
  }
  std::vector<Packet> receive() {
    const std::uint32_t count = socket.rx.peek(kBurst);
    std::vector<Packet> packets(kBurst);
    packets.resize(count == 0 ? 0 : buffers->received(socket.rx, count, packets).packets);
    socket.rx.release(count);
    return packets;
  }
  std::uint32_t send(std::span<Packet> packets, BufferSource::How how) {
    const std::uint32_t room = socket.tx.reserve(static_cast<std::uint32_t>(packets.size()));
    const std::uint32_t sent = buffers->send(socket.tx, room, packets, how).packets;
    socket.tx.submit(sent);
    return sent;
  }
  void reap() {
    const std::uint32_t count = socket.completion.peek(kBurst);
    buffers->completed(socket.completion, count);
    socket.completion.release(count);
  }

  test::FakeKernel kernel;
  std::unique_ptr<PagePool> pool;
  std::unique_ptr<PoolBuffers> buffers;
  AfXdpSocket socket;
};

class PoolBuffersTest : public ::testing::Test {
 protected:
  Arena arena_ = Arena::create({.name = "buffers", .page_count = 512}).value();
  PoolDirectory pools_;
};

TEST_F(PoolBuffersTest, AFrameIsAPacketWithItsPageItsPortAndItsRule) {
  TestQueue queue(arena_, 16, 32, nullptr);
  queue.post(8);
  ASSERT_TRUE(queue.arrive(arena_, 61, PortId{9}));
  const auto packets = queue.receive();
  ASSERT_EQ(packets.size(), 1u);
  EXPECT_EQ(packets[0].body, arena_.page(packets[0].page) + kFrameOffset);
  EXPECT_EQ(packets[0].body_bytes, 61u);
  EXPECT_EQ(packets[0].port, PortId{9});
  EXPECT_EQ(packets[0].rule, 5u);
  EXPECT_TRUE(queue.pool->contains(packets[0].page));
  queue.buffers->recycle(packets);
  EXPECT_TRUE(queue.buffers->reclaim());
  EXPECT_TRUE(queue.pool->idle());
}

TEST_F(PoolBuffersTest, APageThatTheKernelDoesNotHaveIsAFaultAndChangesNothing) {
  TestQueue queue(arena_, 16, 32, nullptr);
  queue.post(4);
  const std::uint32_t posted = queue.pool->inflight();
  for (std::uint64_t page : {0ull, 15ull, 40ull, 48ull, 511ull, 512ull, 1ull << 33, (1ull << 33) + 16}) {
    queue.kernel.give_frame({.addr = page * 2048 + kFrameOffset, .len = 60, .options = 0});
  }
  EXPECT_TRUE(queue.receive().empty());
  EXPECT_EQ(queue.buffers->counters().fault_rx_page.value(), 8u);
  for (std::uint64_t page : {0ull, 16ull, 48ull, (1ull << 32) - 1, 1ull << 32, (1ull << 32) + 16}) {
    queue.kernel.complete(page * 2048);
  }
  queue.reap();
  EXPECT_EQ(queue.buffers->counters().fault_tx_page.value(), 6u);
  EXPECT_EQ(queue.pool->inflight(), posted);
  EXPECT_TRUE(queue.buffers->reclaim());
}

TEST_F(PoolBuffersTest, AFrameOfOneQueueLeavesByAnotherAsItIsAndItsPageComesHome) {
  TestQueue from(arena_, 0, 64, &pools_), to(arena_, 64, 64, &pools_);
  from.post(8);
  ASSERT_TRUE(from.arrive(arena_, 60, PortId{9}));
  auto packets = from.receive();
  const std::uint64_t address = std::uint64_t{raw(packets[0].page)} * 2048 + kFrameOffset;
  EXPECT_EQ(to.send(packets, BufferSource::How::kByPage), 1u);
  EXPECT_EQ(packets[0].page, PageIndex::kNone);
  EXPECT_EQ(to.buffers->counters().tx_zero_copy.value(), 1u);
  EXPECT_EQ(pools_.lent(*from.pool), 1u);
  to.kernel.take_sent(kEntries);
  ASSERT_EQ(to.kernel.sent.size(), 1u);
  EXPECT_EQ(to.kernel.sent[0].addr, address);
  EXPECT_EQ(to.kernel.sent[0].len, 60u);
  to.kernel.complete(address);
  to.reap();
  EXPECT_EQ(pools_.lent(*from.pool), 0u);
  EXPECT_EQ(from.pool->inflight(), 7u);
  to.kernel.complete(address);
  to.reap();
  EXPECT_EQ(to.buffers->counters().fault_tx_page.value(), 1u) << "once is enough";
  EXPECT_TRUE(from.buffers->reclaim());
}

TEST_F(PoolBuffersTest, APageOfAPoolThatIsNotInTheDirectoryIsCopied) {
  TestQueue from(arena_, 0, 64, nullptr), to(arena_, 64, 64, &pools_);
  from.post(8);
  ASSERT_TRUE(from.arrive(arena_, 60, PortId{9}));
  auto packets = from.receive();
  EXPECT_EQ(to.send(packets, BufferSource::How::kByPage), 1u);
  EXPECT_NE(packets[0].page, PageIndex::kNone);
  EXPECT_EQ(to.buffers->counters().tx_copied.value(), 1u);
  from.buffers->recycle(packets);
  EXPECT_TRUE(from.buffers->reclaim() && to.buffers->reclaim());
  EXPECT_TRUE(from.pool->idle() && to.pool->idle());
}

// The one that lends must go on receiving, however long the other NIC keeps what it has.
TEST_F(PoolBuffersTest, APoolThatHasLentAllThatItCanSpareIsCopiedFrom) {
  TestQueue from(arena_, 0, 128, &pools_, 10), to(arena_, 128, 128, &pools_);
  from.post(64);
  for (int i = 0; i < 16; ++i) {
    ASSERT_TRUE(from.arrive(arena_, 60, PortId{9}));
  }
  auto packets = from.receive();
  EXPECT_EQ(to.send(packets, BufferSource::How::kByPage), 16u);
  EXPECT_EQ(to.buffers->counters().tx_zero_copy.value(), 10u);
  EXPECT_EQ(to.buffers->counters().tx_copied.value(), 6u);
  EXPECT_EQ(pools_.lent(*from.pool), 10u);
  from.buffers->recycle(packets);
  EXPECT_TRUE(to.buffers->reclaim() && from.buffers->reclaim());
  EXPECT_TRUE(from.pool->idle() && to.pool->idle());
}

TEST_F(PoolBuffersTest, AFullTxRingTakesWhatItCanAndLeavesTheRest) {
  TestQueue from(arena_, 0, 256, &pools_, 256), to(arena_, 256, 256, &pools_);
  for (int round = 0; round < 2; ++round) {
    from.post(64);
    for (int i = 0; i < 40; ++i) {
      ASSERT_TRUE(from.arrive(arena_, 60, PortId{9}));
    }
    auto packets = from.receive();
    EXPECT_EQ(to.send(packets, BufferSource::How::kByPage), round == 0 ? 40u : 24u);
    from.buffers->recycle(packets);
  }
  EXPECT_EQ(to.buffers->counters().drop_tx_ring_full.value(), 16u);
  EXPECT_EQ(pools_.lent(*from.pool), 64u);
  // Taken by the kernel and not completed: there is room in the ring, and for no more pages of others here.
  to.kernel.take_sent(kEntries);
  ASSERT_TRUE(from.arrive(arena_, 60, PortId{9}));
  auto packets = from.receive();
  EXPECT_EQ(to.send(packets, BufferSource::How::kByPage), 1u);
  EXPECT_EQ(to.buffers->counters().tx_copied.value(), 1u);
  from.buffers->recycle(packets);
  EXPECT_TRUE(to.buffers->reclaim());
  from.pool->collect();
  EXPECT_TRUE(from.buffers->reclaim());
}

// Whatever the kernel, the workers and the return rings do: each page has one place, and comes home.
class Walk {
 public:
  Walk(const Arena& arena, std::uint32_t seed) : arena_(arena), random_(seed) {
    for (std::uint32_t i = 0; i < 3; ++i) {
      queues_.push_back(std::make_unique<TestQueue>(arena, 150 * i, 150, &pools_, 20, 8));
    }
  }
  void run(int steps) {
    for (; steps != 0; --steps) {
      step();
    }
    for (auto& packets : hands_) {
      give_back(packets.first, packets.second);
    }
    // In any order, and again until nothing is left: the return rings are small.
    bool all = false;
    for (int round = 0; round < 200 && !all; ++round) {
      all = true;
      for (auto& queue : queues_) {
        all &= queue->buffers->reclaim();
        queue->pool->collect();
      }
    }
    EXPECT_TRUE(all);
    for (auto& queue : queues_) {
      EXPECT_TRUE(queue->pool->idle()) << queue->pool->inflight();
      EXPECT_EQ(pools_.lent(*queue->pool), 0u);
      EXPECT_EQ(queue->buffers->counters().fault_rx_page.value(), 0u);
      EXPECT_EQ(queue->buffers->counters().fault_tx_page.value(), 0u);
      pools_.remove(*queue->pool);
    }
  }
  std::uint64_t by_page() const {
    std::uint64_t sum = 0;
    for (const auto& queue : queues_) {
      sum += queue->buffers->counters().tx_zero_copy.value();
    }
    return sum;
  }

 private:
  std::uint32_t below(std::uint32_t bound) { return static_cast<std::uint32_t>(random_() % bound); }

  void step() {
    const std::uint32_t which = below(3);
    TestQueue& queue = *queues_[which];
    switch (below(7)) {
      case 0:
        queue.post(below(20));
        break;
      case 1:
        for (std::uint32_t i = below(20); i != 0; --i) {
          queue.arrive(arena_, 60 + below(1000), PortId{9});
        }
        break;
      case 2:
        hands_.emplace_back(which, queue.receive());
        break;
      case 3:
        if (!hands_.empty()) {
          auto [from, packets] = std::move(hands_.front());
          hands_.pop_front();
          queue.send(packets, below(4) == 0 ? BufferSource::How::kByCopy : BufferSource::How::kByPage);
          give_back(from, packets);
        }
        break;
      case 4: {  // the kernel sends, and completes in any order
        queue.kernel.take_sent(below(40));
        auto& sent = queue.kernel.sent;
        const std::uint32_t most = std::min(below(20), queue.kernel.completion_room());
        for (std::uint32_t i = most; i != 0 && !sent.empty(); --i) {
          std::swap(sent[below(static_cast<std::uint32_t>(sent.size()))], sent.back());
          queue.kernel.complete(sent.back().addr);
          sent.pop_back();
        }
        break;
      }
      case 5:
        queue.reap();
        queue.buffers->send_home();
        break;
      default:
        if (below(4) == 0) {
          queue.pool->collect();
        }
        EXPECT_LE(pools_.lent(*queue.pool), 20u);
        break;
    }
  }
  void give_back(std::uint32_t from, const std::vector<Packet>& packets) {
    queues_[from]->buffers->recycle(packets);
  }

  const Arena& arena_;
  std::mt19937 random_;
  PoolDirectory pools_;
  std::vector<std::unique_ptr<TestQueue>> queues_;
  std::deque<std::pair<std::uint32_t, std::vector<Packet>>> hands_;
};

TEST_F(PoolBuffersTest, Model_PagesOfThreeQueuesThatSendEachOthersAllComeHome_D7) {
  std::uint64_t by_page = 0;
  for (std::uint32_t seed = 1; seed <= 30; ++seed) {
    Walk walk(arena_, seed);
    walk.run(4000);
    by_page += walk.by_page();
  }
  EXPECT_GT(by_page, 10'000u);
}

// --- Umem ---

TEST(Umem, RegistersAnArenaWholeWithRoomForMetadata) {
  test::FakeKernel kernel;
  Arena arena = Arena::create({.name = "umem", .page_bytes = 4096, .page_count = 16}).value();
  auto umem = Umem::create(arena, kernel).value();
  EXPECT_EQ(kernel.registered.addr, reinterpret_cast<std::uint64_t>(arena.data()));
  EXPECT_EQ(kernel.registered.len, arena.bytes());
  EXPECT_EQ(kernel.registered.chunk_size, 4096u);
  EXPECT_EQ(kernel.registered.headroom, sizeof(sluice_packet_meta));
  EXPECT_EQ(kernel.registered.flags, 0u);
}

TEST(Umem, RegionsSideBySideAreOneRegistrationAndAGapIsRefused) {
  test::FakeKernel kernel;
  std::vector<std::byte> memory(10 * 4096);
  const std::array<UmemRegion, 2> adjacent{{{memory.data(), 4096}, {memory.data() + 4096, 8192}}};
  auto umem = Umem::create(adjacent, {.headroom = 12, .chunks = UmemLayout::Chunks::kUnaligned}, kernel);
  ASSERT_TRUE(umem) << umem.error().message;
  EXPECT_EQ((*umem)->data(), memory.data());
  EXPECT_EQ((*umem)->bytes(), 12288u);
  EXPECT_EQ(kernel.registered.len, 12288u);
  EXPECT_EQ(kernel.registered.flags, std::uint32_t{XDP_UMEM_UNALIGNED_CHUNK_FLAG});
  EXPECT_EQ(kernel.registered.headroom, 12u);
  const std::array<UmemRegion, 2> apart{{{memory.data(), 4096}, {memory.data() + 8192, 4096}}};
  auto refused = Umem::create(apart, {}, kernel);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("a gap behind 4096 bytes"), std::string::npos);
}

}  // namespace
}  // namespace sluice
