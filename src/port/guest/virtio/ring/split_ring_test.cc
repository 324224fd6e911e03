// What a hostile driver can do to a split ring, one test per trick. The transmit queue is attacked, unless
// the trick needs a receive queue; the other queue of the same guest must not notice. Receive buffers of
// either format that take no frame: guest_frame_test.cc.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "base/untrusted.h"
#include "port/guest/virtio/guest_test_fixture.h"

namespace sluice::test {
namespace {

constexpr std::uint16_t kEntries = 16;
constexpr std::uint16_t kNext = VRING_DESC_F_NEXT, kWrite = VRING_DESC_F_WRITE,
                        kIndirect = VRING_DESC_F_INDIRECT;

class Malicious_SplitRing : public testing::Test {
 protected:
  explicit Malicious_SplitRing(std::uint64_t features = kVersion1 | kMergeable | kIndirectDesc)
      : bench_({.format = VringFormat::kSplit, .entries = kEntries, .features = features}) {
    good_ = frame_at(guest_frame(1, 60));
  }

  // The bytes of a transmit buffer: header and frame.
  Segment frame_at(const Bytes& frame) {
    const auto bytes = static_cast<std::uint32_t>(kNetHeaderBytes + frame.size());
    const std::uint64_t address = bench_.guest.memory().allocate(bytes);
    std::memcpy(bench_.guest.memory().at(address, bytes) + kNetHeaderBytes, frame.data(), frame.size());
    return {address, bytes};
  }
  MockDriver& driver() { return queue_ == 1 ? bench_.guest.tx() : bench_.guest.rx(); }
  // Descriptor `at` of the table, or of an indirect table at `table`.
  void put(std::uint16_t at, std::uint64_t address, std::uint32_t bytes, std::uint16_t flags = 0,
           std::uint16_t next = 0) {
    driver().split_descriptors()[at] =
        vring_desc{.addr = address, .len = bytes, .flags = flags, .next = next};
  }
  std::uint64_t table(const std::vector<vring_desc>& descriptors) {
    const std::uint64_t address = bench_.guest.memory().allocate(16 * descriptors.size());
    std::memcpy(bench_.guest.memory().at(address, 16 * descriptors.size()), descriptors.data(),
                16 * descriptors.size());
    return address;
  }
  void offer(std::uint16_t head) {
    driver().avail()->ring[index_ % kEntries] = head;
    write_once(driver().avail()->idx, ++index_, std::memory_order_release);
  }
  void offer_good(std::uint16_t at = kEntries - 1) {
    put(at, good_.address, good_.bytes);
    offer(at);
  }
  // What the device has given back since the last call.
  std::vector<vring_used_elem> used() {
    std::vector<vring_used_elem> all;
    for (; used_index_ != driver().used()->idx; ++used_index_) {
      all.push_back(driver().used()->ring[used_index_ % kEntries]);
    }
    return all;
  }
  bool broken() { return bench_.device.ring_state(queue_).broken; }

  void expect_receive_queue_unharmed() {
    bench_.deliver(guest_frame(77, 200));
    EXPECT_EQ(bench_.guest.receive(), guest_frame(77, 200));
  }
  // The ring stopped, by this fault alone; started anew it carries traffic.
  void expect_broken(const std::string& fault) {
    EXPECT_TRUE(bench_.take().empty());
    EXPECT_TRUE(broken());
    EXPECT_EQ(bench_.counter(fault), 1u);
    EXPECT_EQ(bench_.faults(), 1u);
    EXPECT_TRUE(bench_.take().empty());
    EXPECT_EQ(bench_.faults(), 1u) << "a broken ring is not looked at again";
    expect_receive_queue_unharmed();
    const VringBase base = bench_.device.stop_ring(1);
    EXPECT_EQ(base.avail, base.used) << "what was taken has been given back";
    driver().avail()->idx = 0;
    index_ = 0;
    VringSetup setup = driver().setup();
    setup.base.used = used_index_ = driver().used()->idx;
    bench_.device.start_ring(1, setup);
    offer_good();
    EXPECT_EQ(bench_.take().size(), 1u);
    EXPECT_FALSE(broken());
  }
  // The buffer came back unused, by this fault alone; the ring goes on.
  void expect_one_lost(const std::string& fault) {
    offer_good();
    EXPECT_EQ(bench_.take(), std::vector<Bytes>{guest_frame(1, 60)});
    EXPECT_FALSE(broken());
    EXPECT_EQ(bench_.counter(fault), 1u) << fault;
    const auto back = used();
    ASSERT_EQ(back.size(), 2u);
    EXPECT_EQ(back[0].len, 0u);
    EXPECT_EQ(bench_.counter("tx_packets"), 1u);
    expect_receive_queue_unharmed();
  }

  Bench bench_;
  std::uint32_t queue_ = 1;
  Segment good_;
  std::uint16_t index_ = 0;
  std::uint16_t used_index_ = 0;
};

TEST_F(Malicious_SplitRing, S1_AvailableIndexAheadByMoreThanTheRing) {
  driver().avail()->idx = kEntries + 1;
  expect_broken("fault_ring_index");
}
TEST_F(Malicious_SplitRing, S1_AvailableIndexGoesBack) {
  driver().avail()->idx = 0xffff;
  expect_broken("fault_ring_index");
}
TEST_F(Malicious_SplitRing, S2_HeadBehindTheTable) {
  offer(kEntries);
  expect_broken("fault_ring_head");
}
TEST_F(Malicious_SplitRing, S2_HeadFarBehindTheTableAfterGoodOnes) {
  put(3, good_.address, good_.bytes);
  driver().avail()->ring[0] = 3;
  driver().avail()->ring[1] = 0xffff;
  driver().avail()->idx = 2;
  expect_broken("fault_ring_head");
}
TEST_F(Malicious_SplitRing, S3_NextBehindTheTable) {
  put(0, good_.address, 12, kNext, kEntries);
  offer(0);
  expect_broken("fault_ring_chain");
}
TEST_F(Malicious_SplitRing, S4_DescriptorThatIsItsOwnNext) {
  put(0, good_.address, 12, kNext, 0);
  offer(0);
  expect_broken("fault_ring_chain");
}
TEST_F(Malicious_SplitRing, S4_TwoDescriptorsInACircle) {
  put(0, good_.address, 12, kNext, 1);
  put(1, good_.address, 12, kNext, 0);
  offer(0);
  expect_broken("fault_ring_chain");
}
// Nothing of the burst in which a ring breaks is taken, so nothing of it is counted but that.
TEST_F(Malicious_SplitRing, Regression_BadBufferBeforeTheChainThatBreaksTheRingIsNotCounted) {
  put(0, 0xdead'0000'0000, 100);
  put(1, good_.address, 12, kNext, 1);
  offer(0);
  offer(1);
  expect_broken("fault_ring_chain");
}
TEST_F(Malicious_SplitRing, S5_ChainLongerThanTheTable) {
  for (std::uint16_t i = 0; i < kEntries; ++i) {
    put(i, good_.address, 12, kNext, static_cast<std::uint16_t>((i + 1) % kEntries));
  }
  offer(0);
  expect_broken("fault_ring_chain");
}
TEST_F(Malicious_SplitRing, S6_IndirectThatGoesOn) {
  put(0, table({{good_.address, good_.bytes, 0, 0}}), 16, kIndirect | kNext, 1);
  put(1, good_.address, good_.bytes);
  offer(0);
  expect_broken("fault_ring_chain");
}
TEST_F(Malicious_SplitRing, S7_TableInATable) {
  const std::uint64_t inner = table({{good_.address, good_.bytes, 0, 0}});
  put(0, table({{inner, 16, kIndirect, 0}}), 16, kIndirect);
  offer(0);
  expect_one_lost("fault_buffer_indirect");
}

class Malicious_SplitRingWithoutIndirect : public Malicious_SplitRing {
 protected:
  Malicious_SplitRingWithoutIndirect() : Malicious_SplitRing(kVersion1) {}
};
TEST_F(Malicious_SplitRingWithoutIndirect, S8_TableThatWasNotNegotiated) {
  put(0, table({{good_.address, good_.bytes, 0, 0}}), 16, kIndirect);
  offer(0);
  expect_one_lost("fault_buffer_indirect");
}

TEST_F(Malicious_SplitRing, S9_TableOfNoBytes) {
  put(0, good_.address, 0, kIndirect);
  offer(0);
  expect_one_lost("fault_buffer_indirect");
}
TEST_F(Malicious_SplitRing, S9_TableOfNoWholeDescriptors) {
  put(0, table({{good_.address, good_.bytes, 0, 0}, {}}), 17, kIndirect);
  offer(0);
  expect_one_lost("fault_buffer_indirect");
}
TEST_F(Malicious_SplitRing, S9_TableOfNearlyFourGigabytes) {
  put(0, table({{good_.address, good_.bytes, 0, 0}}), 0xfffffff0, kIndirect);
  offer(0);
  expect_one_lost("fault_buffer_indirect");
}
TEST_F(Malicious_SplitRing, S9_TableThatIsNowhere) {
  put(0, 0xdead'0000'0000, 16, kIndirect);
  offer(0);
  expect_one_lost("fault_buffer_indirect");
}
TEST_F(Malicious_SplitRing, S9_TableThatEndsBehindTheMemory) {
  put(0, MockMemory::kBase + (std::uint64_t{512} << 20) - 16, 32, kIndirect);
  offer(0);
  expect_one_lost("fault_buffer_indirect");
}
TEST_F(Malicious_SplitRing, S9_TableAtAnOddAddress) {
  put(0, table({{good_.address, good_.bytes, 0, 0}, {}}) + 1, 16, kIndirect);
  offer(0);
  expect_one_lost("fault_buffer_indirect");
}
TEST_F(Malicious_SplitRing, S9_ChainThatLeavesItsTable) {
  put(0, table({{good_.address, 12, kNext, 2}, {good_.address, 12, 0, 0}}), 32, kIndirect);
  offer(0);
  expect_one_lost("fault_buffer_indirect");
}
TEST_F(Malicious_SplitRing, S9_ChainInATableThatHasNoEnd) {
  put(0, table({{good_.address, 12, kNext, 1}, {good_.address, 12, kNext, 0}}), 32, kIndirect);
  offer(0);
  expect_one_lost("fault_buffer_indirect");
}
TEST_F(Malicious_SplitRing, S10_BufferThatIsNowhere) {
  put(0, 0xdead'0000'0000, 100);
  offer(0);
  expect_one_lost("fault_buffer_unmapped");
}
TEST_F(Malicious_SplitRing, S10_BufferWhoseLastByteIsOutside) {
  put(0, MockMemory::kBase + (std::uint64_t{512} << 20) - 99, 100);
  offer(0);
  expect_one_lost("fault_buffer_unmapped");
}
TEST_F(Malicious_SplitRing, S10_BufferThatWrapsTheAddressSpace) {
  put(0, ~std::uint64_t{0} - 10, 100);
  offer(0);
  expect_one_lost("fault_buffer_unmapped");
}
TEST_F(Malicious_SplitRing, S11_DescriptorOfNoBytes) {
  put(0, good_.address, 0);
  offer(0);
  expect_one_lost("fault_buffer_empty");
}
TEST_F(Malicious_SplitRing, S11_DescriptorOfFourGigabytes) {
  put(0, good_.address, 0xffffffff);
  offer(0);
  expect_one_lost("fault_buffer_unmapped");
}
TEST_F(Malicious_SplitRing, S11_ChainOfMoreThanFourGigabytes) {
  for (std::uint16_t i = 0; i < 10; ++i) {
    put(i, MockMemory::kBase, 511 << 20, i < 9 ? kNext : 0, static_cast<std::uint16_t>(i + 1));
  }
  offer(0);
  expect_one_lost("fault_buffer_pieces");
}
TEST_F(Malicious_SplitRing, S12_TransmitBufferToWriteTo) {
  put(0, good_.address, good_.bytes, kWrite);
  offer(0);
  expect_one_lost("fault_buffer_direction");
}
TEST_F(Malicious_SplitRing, S12_TransmitChainPartlyToWriteTo) {
  put(0, good_.address, 12, kNext, 1);
  put(1, good_.address + 12, good_.bytes - 12, kWrite);
  offer(0);
  expect_one_lost("fault_buffer_direction");
}
TEST_F(Malicious_SplitRing, S14_TransmitChainThatEndsInTheHeader) {
  for (std::uint16_t i = 0; i < 12; ++i) {
    put(i, good_.address, static_cast<std::uint32_t>(i + 1));
    offer(i);
  }
  offer_good();
  EXPECT_EQ(bench_.take().size(), 1u);
  EXPECT_EQ(bench_.counter("drop_tx_runt"), 12u);
  EXPECT_EQ(used().size(), 13u);
}
TEST_F(Malicious_SplitRing, S15_HeaderInDescriptorsOfOneByte) {
  for (std::uint16_t i = 0; i < 12; ++i) {
    put(i, good_.address + i, 1, kNext, static_cast<std::uint16_t>(i + 1));
  }
  put(12, good_.address + 12, 60);
  offer(0);
  EXPECT_EQ(bench_.take(), std::vector<Bytes>{guest_frame(1, 60)});
  EXPECT_EQ(bench_.faults(), 0u);
}
TEST_F(Malicious_SplitRing, S16_SameHeadTwice) {
  put(0, good_.address, good_.bytes);
  offer(0);
  offer(0);
  offer(0);
  EXPECT_EQ(bench_.take().size(), 3u);
  EXPECT_EQ(used().size(), 3u);
  EXPECT_FALSE(broken());
}
// A frame that is its own ring: the guest's memory, the guest's garbage.
TEST_F(Malicious_SplitRing, S17_ReceiveBufferOverTheRingsThemselves) {
  queue_ = 0;
  bench_.device.stop_ring(0);
  driver().avail()->idx = 0;
  bench_.device.start_ring(0, driver().setup());
  const MockDriver& tx = bench_.guest.tx();
  for (const std::uint64_t over :
       {driver().descriptors_address(), driver().driver_address(), driver().device_address(),
        tx.descriptors_address(), tx.driver_address(), tx.device_address()}) {
    put(0, over, 2048, kWrite);
    offer(0);
    bench_.deliver(guest_frame(5, 900));
    bench_.take();
    bench_.lane().poll();
  }
  Bench other;
  other.deliver(guest_frame(8, 90));
  EXPECT_EQ(other.guest.receive(), guest_frame(8, 90));
}
TEST_F(Malicious_SplitRing, S19_UsedRingAndIndexOverwritten) {
  for (std::uint16_t round = 0; round < 100; ++round) {
    offer_good();
    driver().used()->idx = static_cast<std::uint16_t>(round * 77);
    std::memset(driver().used()->ring, 0xff, sizeof(vring_used_elem) * kEntries);
    ASSERT_EQ(bench_.take().size(), 1u);
    ASSERT_EQ(driver().used()->idx, round + 1) << "ours is the index that counts";
  }
  EXPECT_EQ(bench_.faults(), 0u);
}
TEST_F(Malicious_SplitRing, S20_FlappingFlagsCostAtMostOneCallPerTurn) {
  for (std::uint16_t round = 0; round < 100; ++round) {
    driver().avail()->flags = round % 3 == 0 ? 0 : 0xffff;
    offer_good();
    ASSERT_EQ(bench_.take().size(), 1u);
  }
  EXPECT_LE(bench_.device.ring_state(1).calls, 100u);
}
TEST_F(Malicious_SplitRing, S21_ReceiveQueueThatIsNeverFilledUpStarvesItselfOnly) {
  Bench other;
  for (std::uint32_t i = 0; i < 100; ++i) {
    bench_.deliver(guest_frame(i, 60));
    other.deliver(guest_frame(i, 60));
    ASSERT_EQ(other.guest.receive(), guest_frame(i, 60));
  }
  EXPECT_EQ(bench_.counter("rx_packets"), kEntries);
  EXPECT_EQ(bench_.counter("drop_ring_full"), 100u - kEntries);
  offer_good();
  EXPECT_EQ(bench_.take().size(), 1u) << "its transmit queue goes on";
}
TEST_F(Malicious_SplitRing, S22_UsedBuffersThatAreNeverLookedAt) {
  for (std::uint16_t round = 0; round < 1000; ++round) {
    offer_good();
    ASSERT_EQ(bench_.take().size(), 1u);
  }
  EXPECT_EQ(bench_.faults(), 0u);
}

// S18: everything that is read more than once is read as two different things.
TEST_F(Malicious_SplitRing, S18_DescriptorsThatChangeBetweenAnyTwoReads) {
  std::atomic<bool> stop{false};
  std::thread flipper([&] {
    vring_desc* descriptors = driver().split_descriptors();
    for (std::uint32_t i = 0; !stop.load(std::memory_order_relaxed); ++i) {
      auto* words = reinterpret_cast<std::uint64_t*>(&descriptors[i % kEntries]);
      const bool lie = (i / kEntries) % 2 == 0;
      write_once(words[0], lie ? ~std::uint64_t{0} - 5 : std::uint64_t{good_.address});
      write_once(words[1],
                 lie ? std::uint64_t{0xffffffff} | std::uint64_t{i & 7} << 32 | std::uint64_t{i} << 48
                     : std::uint64_t{good_.bytes});
      write_once(driver().avail()->ring[i % kEntries],
                 static_cast<std::uint16_t>(i % 7 == 0 ? 0xffff : i % kEntries));
      write_once(driver().avail()->idx, static_cast<std::uint16_t>(i * 3));
    }
  });
  // Until the other thread has had its chance, on however busy a machine.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  for (std::uint32_t round = 0;
       round < 20'000 || (bench_.faults() == 0 && std::chrono::steady_clock::now() < deadline); ++round) {
    for (const Bytes& frame : bench_.take()) {
      EXPECT_LE(frame.size(), 65535u);
    }
    if (broken()) {
      VringSetup setup = driver().setup();
      setup.base.avail = read_once(driver().avail()->idx);
      bench_.device.stop_ring(1);
      bench_.device.start_ring(1, setup);
    }
  }
  stop = true;
  flipper.join();
  EXPECT_GT(bench_.faults(), 0u);
  expect_receive_queue_unharmed();
}

}  // namespace
}  // namespace sluice::test
