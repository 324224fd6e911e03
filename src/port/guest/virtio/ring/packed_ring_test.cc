// What a hostile driver can do to a packed ring, one test per trick: split_ring_test.cc's sibling.
// Receive buffers of either format that take no frame: guest_frame_test.cc.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "base/untrusted.h"
#include "port/burst_of.h"
#include "port/guest/virtio/guest_test_fixture.h"

namespace sluice::test {
namespace {

constexpr std::uint16_t kEntries = 16;
constexpr std::uint16_t kNext = VRING_DESC_F_NEXT, kWrite = VRING_DESC_F_WRITE,
                        kIndirect = VRING_DESC_F_INDIRECT;
constexpr std::uint16_t kAvail = 1 << VRING_PACKED_DESC_F_AVAIL, kUsed = 1 << VRING_PACKED_DESC_F_USED;
constexpr std::uint64_t kNowhere = 0xdead'0000'0000;

class Malicious_PackedRing : public testing::Test {
 protected:
  explicit Malicious_PackedRing(std::uint64_t features = kVersion1 | kMergeable | kIndirectDesc)
      : bench_({.format = VringFormat::kPacked, .entries = kEntries, .features = features}) {
    const Bytes frame = guest_frame(1, 60);
    good_ = {bench_.guest.memory().allocate(kNetHeaderBytes + frame.size()),
             static_cast<std::uint32_t>(kNetHeaderBytes + frame.size())};
    std::memcpy(bench_.guest.memory().at(good_.address, good_.bytes) + kNetHeaderBytes, frame.data(),
                frame.size());
  }

  MockDriver& driver() { return bench_.guest.tx(); }
  // The next descriptor of the ring, available.
  void offer(std::uint64_t address, std::uint32_t bytes, std::uint16_t flags = 0, std::uint16_t id = 0) {
    driver().packed_descriptors()[at_] =
        vring_packed_desc{.addr = address,
                          .len = bytes,
                          .id = id,
                          .flags = static_cast<std::uint16_t>(flags | (wrap_ ? kAvail : kUsed))};
    if (++at_ == kEntries) {
      at_ = 0;
      wrap_ = !wrap_;
    }
  }
  void offer_good(std::uint16_t id = 0) { offer(good_.address, good_.bytes, 0, id); }
  std::uint64_t table(const std::vector<vring_packed_desc>& descriptors) {
    const std::uint64_t bytes = 16 * descriptors.size();
    const std::uint64_t address = bench_.guest.memory().allocate(bytes);
    std::memcpy(bench_.guest.memory().at(address, bytes), descriptors.data(), bytes);
    return address;
  }
  const vring_packed_desc& used(std::uint16_t at) { return driver().packed_descriptors()[at]; }
  bool is_used(std::uint16_t at) {
    const std::uint16_t flags = used(at).flags & (kAvail | kUsed);
    return flags == (kAvail | kUsed);  // of the first round
  }
  bool broken() { return bench_.device.ring_state(1).broken; }

  void expect_receive_queue_unharmed() {
    bench_.deliver(guest_frame(77, 200));
    EXPECT_EQ(bench_.guest.receive(), guest_frame(77, 200));
  }
  void expect_broken(const std::string& fault) {
    EXPECT_TRUE(bench_.take().empty());
    EXPECT_TRUE(broken());
    EXPECT_EQ(bench_.counter(fault), 1u);
    EXPECT_TRUE(bench_.take().empty());
    EXPECT_EQ(bench_.faults(), 1u) << "a broken ring is not looked at again";
    expect_receive_queue_unharmed();
    const VringBase base = bench_.device.stop_ring(1);
    EXPECT_EQ(base.avail, base.used) << "what was taken has been given back";
    std::memset(driver().packed_descriptors(), 0, sizeof(vring_packed_desc) * kEntries);
    at_ = 0;
    wrap_ = true;
    bench_.device.start_ring(1, driver().setup());
    offer_good();
    EXPECT_EQ(bench_.take().size(), 1u);
    EXPECT_FALSE(broken());
  }
  // One buffer of `descriptors` was bad; the next one is good.
  void expect_one_lost(const std::string& fault, std::uint16_t descriptors = 1) {
    offer_good(3);
    EXPECT_EQ(bench_.take(), std::vector<Bytes>{guest_frame(1, 60)});
    EXPECT_FALSE(broken());
    EXPECT_EQ(bench_.counter(fault), 1u) << fault;
    EXPECT_TRUE(is_used(0));
    EXPECT_EQ(used(0).len, 0u);
    EXPECT_TRUE(is_used(descriptors)) << "the next used one stands behind the whole buffer";
    EXPECT_EQ(used(descriptors).id, 3u);
    expect_receive_queue_unharmed();
  }

  Bench bench_;
  Segment good_;
  std::uint16_t at_ = 0;
  bool wrap_ = true;
};

TEST_F(Malicious_PackedRing, P1_FlagsThatLieAboutTheRound) {
  for (const std::uint16_t flags : {std::uint16_t{0}, kUsed, static_cast<std::uint16_t>(kAvail | kUsed)}) {
    driver().packed_descriptors()[0] = {.addr = good_.address, .len = good_.bytes, .id = 0, .flags = flags};
    EXPECT_TRUE(bench_.take().empty()) << flags;
  }
  EXPECT_EQ(bench_.faults(), 0u);
  offer_good();
  EXPECT_EQ(bench_.take().size(), 1u);
}
TEST_F(Malicious_PackedRing, P1_EverythingAvailableForEver) {
  for (std::uint16_t i = 0; i < kEntries; ++i) {
    offer_good(i);
  }
  std::array<Packet, kBurst> packets;
  EXPECT_EQ(burst_of(bench_.lane(), packets), kEntries) << "a ring has no more buffers than descriptors";
  bench_.lane().done(std::span(packets).first(kEntries));
}
TEST_F(Malicious_PackedRing, P2_DescriptorsThatChangeBetweenAnyTwoReads) {
  std::atomic<bool> stop{false};
  std::thread flipper([&] {
    for (std::uint32_t i = 0; !stop.load(std::memory_order_relaxed); ++i) {
      auto* words = reinterpret_cast<std::uint64_t*>(&driver().packed_descriptors()[i % kEntries]);
      const bool lie = (i / kEntries) % 2 == 0;
      write_once(words[0], lie ? ~std::uint64_t{0} - 5 : std::uint64_t{good_.address});
      const std::uint64_t flags = (i / 64 % 2 == 0 ? kAvail : kUsed) | (lie ? i & 7 : 0);
      write_once(words[1], (lie ? std::uint64_t{0xffffffff} : std::uint64_t{good_.bytes}) | flags << 48);
    }
  });
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  for (std::uint32_t round = 0;
       round < 20'000 || (bench_.faults() == 0 && std::chrono::steady_clock::now() < deadline); ++round) {
    for (const Bytes& frame : bench_.take()) {
      EXPECT_LE(frame.size(), 65535u);
    }
    if (broken()) {
      bench_.device.stop_ring(1);
      bench_.device.start_ring(1, driver().setup());
    }
  }
  stop = true;
  flipper.join();
  EXPECT_GT(bench_.faults(), 0u);
  expect_receive_queue_unharmed();
}
TEST_F(Malicious_PackedRing, P3_IdsThatThereAreNotAndOneIdTwice) {
  for (const std::uint16_t id : std::array<std::uint16_t, 4>{0xffff, 0x8000, 5, 5}) {
    offer_good(id);
  }
  EXPECT_EQ(bench_.take().size(), 4u);
  EXPECT_EQ(bench_.faults(), 0u);
  EXPECT_EQ(used(0).id, 0xffff) << "an id is the driver's word, given back as it was";
  EXPECT_EQ(used(3).id, 5);
}
TEST_F(Malicious_PackedRing, P4_ChainOverTheEndOfTheRing) {
  for (std::uint16_t i = 0; i < kEntries - 1; ++i) {
    offer_good();
    ASSERT_EQ(bench_.take().size(), 1u);
  }
  offer(good_.address, 20, kNext);
  offer(good_.address + 20, good_.bytes - 20);
  EXPECT_EQ(bench_.take(), std::vector<Bytes>{guest_frame(1, 60)});
  EXPECT_EQ(bench_.faults(), 0u);
  offer_good();
  EXPECT_EQ(bench_.take().size(), 1u) << "the ring goes on in its second round";
}
TEST_F(Malicious_PackedRing, P5_ChainThatNeverEnds) {
  for (std::uint16_t i = 0; i < kEntries; ++i) {
    offer(good_.address, 12, kNext);
  }
  expect_broken("fault_ring_chain");
}
// Each no longer than the ring, and the second goes on through the first.
TEST_F(Malicious_PackedRing, P5_ChainsThatTogetherHaveMoreDescriptorsThanTheRing) {
  for (std::uint16_t i = 0; i < kEntries; ++i) {
    offer(good_.address, good_.bytes, i == 9 ? 0 : kNext);
  }
  EXPECT_EQ(bench_.take().size(), 1u) << "the first, of ten";
  EXPECT_TRUE(broken());
  EXPECT_EQ(bench_.counter("fault_ring_chain"), 1u);
  EXPECT_TRUE(is_used(0));
  expect_receive_queue_unharmed();
}
TEST_F(Malicious_PackedRing, P5_ChainsThatFillTheRingToItsLastDescriptor) {
  for (std::uint16_t i = 0; i < kEntries; ++i) {
    offer(good_.address, good_.bytes, i == 9 || i == kEntries - 1 ? 0 : kNext);
  }
  EXPECT_EQ(bench_.take().size(), 2u);
  EXPECT_FALSE(broken());
}
TEST_F(Malicious_PackedRing, P6_OneBadDescriptorAmongFour) {
  offer_good(0);
  offer_good(1);
  offer(kNowhere, 100, 0, 2);
  offer_good(3);
  EXPECT_EQ(bench_.take().size(), 3u);
  EXPECT_EQ(bench_.counter("fault_buffer_unmapped"), 1u);
  for (std::uint16_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(is_used(i));
    EXPECT_EQ(used(i).id, i);
  }
}
TEST_F(Malicious_PackedRing, P8_IndirectThatGoesOn) {
  offer(table({{good_.address, good_.bytes, 0, 0}}), 16, kIndirect | kNext);
  offer_good();
  expect_broken("fault_ring_chain");
}
TEST_F(Malicious_PackedRing, P8_IndirectInTheMiddleOfAChain) {
  offer(good_.address, 12, kNext);
  offer(table({{good_.address, good_.bytes, 0, 0}}), 16, kIndirect);
  expect_broken("fault_ring_chain");
}
TEST_F(Malicious_PackedRing, P9_AChainIsGivenBackAsAWholeAndTheNextStandsBehindIt) {
  offer(good_.address, 12, kNext, 9);
  offer(good_.address + 12, 20, kNext, 9);
  offer(good_.address + 32, good_.bytes - 32, 0, 9);
  offer_good(4);
  EXPECT_EQ(bench_.take().size(), 2u);
  EXPECT_TRUE(is_used(0));
  EXPECT_FALSE(is_used(1));
  EXPECT_TRUE(is_used(3));
  EXPECT_EQ(used(0).id, 9);
  EXPECT_EQ(used(3).id, 4);
}

class Malicious_PackedRingWithEvents : public Malicious_PackedRing {
 protected:
  Malicious_PackedRingWithEvents() : Malicious_PackedRing(kVersion1 | kEventIdx) {}
};
TEST_F(Malicious_PackedRingWithEvents, P7_EventPositionsOutOfRangeCostAtMostOneCallPerTurn) {
  for (std::uint32_t round = 0; round < 200; ++round) {
    driver().driver_event()->off_wrap = static_cast<std::uint16_t>(round * 40503);
    driver().driver_event()->flags = static_cast<std::uint16_t>(round % 5);
    offer_good();
    ASSERT_EQ(bench_.take().size(), 1u);
  }
  EXPECT_LE(bench_.device.ring_state(1).calls, 200u);
  EXPECT_EQ(bench_.faults(), 0u);
}

TEST_F(Malicious_PackedRing, S7_TableInATable) {
  offer(table({{good_.address, 16, 0, kIndirect}}), 16, kIndirect);
  expect_one_lost("fault_buffer_indirect");
}
TEST_F(Malicious_PackedRing, S9_TableOfNoBytes) {
  offer(good_.address, 0, kIndirect);
  expect_one_lost("fault_buffer_indirect");
}
TEST_F(Malicious_PackedRing, S9_TableOfNoWholeDescriptors) {
  offer(table({{good_.address, good_.bytes, 0, 0}, {}}), 17, kIndirect);
  expect_one_lost("fault_buffer_indirect");
}
TEST_F(Malicious_PackedRing, S9_TableOfNearlyFourGigabytes) {
  offer(table({{good_.address, good_.bytes, 0, 0}}), 0xfffffff0, kIndirect);
  expect_one_lost("fault_buffer_indirect");
}
TEST_F(Malicious_PackedRing, S9_TableThatIsNowhere) {
  offer(kNowhere, 16, kIndirect);
  expect_one_lost("fault_buffer_indirect");
}
TEST_F(Malicious_PackedRing, S9_TableAtAnOddAddress) {
  offer(table({{good_.address, good_.bytes, 0, 0}, {}}) + 1, 16, kIndirect);
  expect_one_lost("fault_buffer_indirect");
}
TEST_F(Malicious_PackedRing, S9_TableOfMorePiecesThanABufferHas) {
  offer(table(std::vector<vring_packed_desc>(kMaxSegments + 1, {good_.address, 1, 0, 0})),
        16 * (kMaxSegments + 1), kIndirect);
  expect_one_lost("fault_buffer_indirect");
}
TEST_F(Malicious_PackedRing, S10_BufferThatIsNowhere) {
  offer(kNowhere, 100);
  expect_one_lost("fault_buffer_unmapped");
}
TEST_F(Malicious_PackedRing, S10_BufferThatWrapsTheAddressSpace) {
  offer(~std::uint64_t{0} - 10, 100);
  expect_one_lost("fault_buffer_unmapped");
}
TEST_F(Malicious_PackedRing, S11_DescriptorOfNoBytes) {
  offer(good_.address, 0);
  expect_one_lost("fault_buffer_empty");
}
TEST_F(Malicious_PackedRing, S11_DescriptorOfFourGigabytes) {
  offer(good_.address, 0xffffffff);
  expect_one_lost("fault_buffer_unmapped");
}
TEST_F(Malicious_PackedRing, S12_TransmitBufferToWriteTo) {
  offer(good_.address, good_.bytes, kWrite);
  expect_one_lost("fault_buffer_direction");
}
TEST_F(Malicious_PackedRing, S12_TransmitChainPartlyToWriteTo) {
  offer(good_.address, 12, kNext);
  offer(good_.address + 12, good_.bytes - 12, kWrite);
  expect_one_lost("fault_buffer_direction", 2);
}
TEST_F(Malicious_PackedRing, S14_TransmitBufferThatEndsInTheHeader) {
  for (std::uint16_t bytes = 1; bytes <= 12; ++bytes) {
    offer(good_.address, bytes);
  }
  offer_good();
  EXPECT_EQ(bench_.take().size(), 1u);
  EXPECT_EQ(bench_.counter("drop_tx_runt"), 12u);
}
TEST_F(Malicious_PackedRing, S21_ReceiveQueueThatIsNeverFilledUpStarvesItselfOnly) {
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

}  // namespace
}  // namespace sluice::test
