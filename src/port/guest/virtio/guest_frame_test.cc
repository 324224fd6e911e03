// What a guest may say about a frame that it sends, and what becomes of frames that it may not send: the
// virtio-net header, source addresses, VLAN tags. And of frames for which it has bad receive buffers, or too
// small ones. With both ring formats.
#include <gtest/gtest.h>

#include <thread>

#include "port/burst_of.h"
#include "port/guest/virtio/guest_lane.h"
#include "port/guest/virtio/guest_test_fixture.h"

namespace sluice::test {
namespace {

constexpr std::uint16_t kVlan = 42;

Bytes tagged(Bytes frame, std::uint16_t vlan) {
  const std::array<std::byte, 4> tag{std::byte{0x81}, std::byte{0}, static_cast<std::byte>(vlan >> 8),
                                     static_cast<std::byte>(vlan)};
  frame.insert(frame.begin() + 12, tag.begin(), tag.end());
  return frame;
}
Bytes from(const MacAddress& mac, Bytes frame) {
  std::memcpy(frame.data() + 6, mac.data(), mac.size());
  return frame;
}

class GuestFrame : public testing::TestWithParam<VringFormat> {
 protected:
  Bench make(GuestPolicy policy = Bench::default_policy()) {
    return Bench({.format = GetParam(), .entries = 64, .features = kVersion1 | kMergeable},
                 std::move(policy));
  }
};
class Malicious_NetHeader : public GuestFrame {
 protected:
  // Sends a frame whose header is `header`; how many came.
  std::size_t send(Bench& bench, const std::array<std::uint8_t, kNetHeaderBytes>& header) {
    const Bytes frame = guest_frame(1, 100);
    const std::uint64_t address = bench.guest.memory().allocate(kNetHeaderBytes + frame.size());
    std::byte* at = bench.guest.memory().at(address, kNetHeaderBytes + frame.size());
    std::memcpy(at, header.data(), header.size());
    std::memcpy(at + header.size(), frame.data(), frame.size());
    const Segment segment{address, static_cast<std::uint32_t>(kNetHeaderBytes + frame.size())};
    EXPECT_TRUE(bench.guest.tx().post(std::span(&segment, 1), 0));
    const std::size_t came = bench.take().size();
    EXPECT_TRUE(bench.guest.tx().reap()) << "its buffer comes back in any case";
    return came;
  }
  void expect_refused(const std::array<std::uint8_t, kNetHeaderBytes>& header) {
    Bench bench = make();
    EXPECT_EQ(send(bench, header), 0u);
    EXPECT_EQ(bench.counter("fault_tx_header"), 1u);
    EXPECT_EQ(send(bench, {}), 1u) << "the ring goes on";
  }
};

// Receive buffers that no driver may offer, or that a frame does not fit into.
class Malicious_ReceiveBuffer : public GuestFrame {
 protected:
  explicit Malicious_ReceiveBuffer(std::uint64_t features = kVersion1 | kMergeable | kIndirectDesc,
                                   std::uint16_t entries = 16)
      : entries_(entries),
        bench_({.format = GetParam(), .entries = entries, .features = features}, Bench::default_policy(),
               {WorkerId{0}}, Bench::Receive::kEmpty),
        room_(bench_.guest.memory().allocate(4096)) {}

  MockDriver& driver() { return bench_.guest.rx(); }
  void offer(std::initializer_list<Segment> segments) {
    first_ = driver().next_position();
    ASSERT_TRUE(driver().post(std::span(segments.begin(), segments.size()), offered_++));
  }
  // A descriptor of the buffer that was offered last is one that we may only read.
  void make_read_only(std::uint16_t segment) {
    if (GetParam() == VringFormat::kPacked) {
      driver().packed_descriptors()[(first_ + segment) % entries_].flags &=
          static_cast<std::uint16_t>(~VRING_DESC_F_WRITE);
      return;
    }
    std::uint16_t at = driver().avail()->ring[first_ % entries_];
    for (; segment > 0; --segment) {
      at = driver().split_descriptors()[at].next;
    }
    driver().split_descriptors()[at].flags &= static_cast<std::uint16_t>(~VRING_DESC_F_WRITE);
  }
  // Bytes written into each buffer that came back since the last call.
  std::vector<std::uint32_t> written() {
    std::vector<std::uint32_t> all;
    while (const auto used = driver().reap()) {
      EXPECT_EQ(used->cookie, came_back_++) << "each once, in order";
      all.push_back(used->bytes);
    }
    return all;
  }
  Bytes in_memory(std::uint64_t address, std::uint64_t bytes) {
    const std::byte* from = bench_.guest.memory().at(address, bytes);
    return Bytes(from, from + bytes);
  }
  // The last buffer offered comes back empty, by this fault alone; the ring goes on, also in its next rounds,
  // and so does the other queue.
  void expect_one_lost(const std::string& fault) {
    for (std::uint32_t i = 0; i < 3u * entries_; ++i) {
      const Bytes frame = guest_frame(i, 60);
      offer({{room_, 2048}});
      bench_.deliver(frame);
      const std::vector<std::uint32_t> back = written();
      ASSERT_EQ(back, i == 0 ? (std::vector<std::uint32_t>{0, 72}) : std::vector<std::uint32_t>{72}) << i;
      ASSERT_EQ(in_memory(room_ + kNetHeaderBytes, 60), frame) << i;
    }
    EXPECT_EQ(bench_.counter(fault), 1u) << fault;
    EXPECT_EQ(bench_.faults(), 1u);
    EXPECT_EQ(bench_.counter("rx_packets"), 3u * entries_);
    EXPECT_FALSE(bench_.device.ring_state(0).broken);
    ASSERT_TRUE(bench_.guest.send(guest_frame(1, 60)));
    EXPECT_EQ(bench_.take().size(), 1u);
  }

  const std::uint16_t entries_;
  Bench bench_;
  const std::uint64_t room_;
  std::uint16_t first_ = 0;  // where the last buffer's descriptors begin
  std::uint64_t offered_ = 0, came_back_ = 0;
};
class Malicious_ReceiveBufferUnmerged : public Malicious_ReceiveBuffer {
 protected:
  Malicious_ReceiveBufferUnmerged() : Malicious_ReceiveBuffer(kVersion1) {}
};
class Malicious_ReceiveBuffersOfALongRing : public Malicious_ReceiveBuffer {
 protected:
  Malicious_ReceiveBuffersOfALongRing() : Malicious_ReceiveBuffer(kVersion1 | kMergeable, 4 * kBurst) {}
};

std::string ring_name(const testing::TestParamInfo<VringFormat>& param) {
  return param.param == VringFormat::kSplit ? "split" : "packed";
}
const auto both_formats = testing::Values(VringFormat::kSplit, VringFormat::kPacked);
INSTANTIATE_TEST_SUITE_P(Rings, GuestFrame, both_formats, ring_name);
INSTANTIATE_TEST_SUITE_P(Rings, Malicious_NetHeader, both_formats, ring_name);
INSTANTIATE_TEST_SUITE_P(Rings, Malicious_ReceiveBuffer, both_formats, ring_name);
INSTANTIATE_TEST_SUITE_P(Rings, Malicious_ReceiveBufferUnmerged, both_formats, ring_name);
INSTANTIATE_TEST_SUITE_P(Rings, Malicious_ReceiveBuffersOfALongRing, both_formats, ring_name);

// flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers: virtio 1.2, 5.1.6
TEST_P(Malicious_NetHeader, H1_H5_AChecksumToMakeThatWasNotNegotiated) {
  expect_refused({1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0});
  expect_refused({1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0});
}
TEST_P(Malicious_NetHeader, H2_H7_SegmentsToMakeThatWereNotNegotiated) {
  expect_refused({0, 1, 54, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  expect_refused({0, 1, 54, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0});
  expect_refused({0, 3, 42, 0, 100, 0, 0, 0, 0, 0, 0, 0});
}
TEST_P(Malicious_NetHeader, H3_AKindOfSegmentsThatThereIsNot) {
  expect_refused({0, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  expect_refused({0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
}
TEST_P(Malicious_NetHeader, H4_H6_LengthsAndNumbersThatMeanNothingHereAreNotLookedAt) {
  Bench bench = make();
  EXPECT_EQ(send(bench, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}), 1u);
  EXPECT_EQ(bench.faults(), 0u);
}
TEST_P(Malicious_NetHeader, H8_FramesLongerThanAnyFrame) {
  Bench bench = make();
  const std::uint64_t address = bench.guest.memory().allocate(128 * 1024);
  const Segment segment{address, kNetHeaderBytes + 65536};
  ASSERT_TRUE(bench.guest.tx().post(std::span(&segment, 1), 0));
  EXPECT_TRUE(bench.take().empty());
  EXPECT_EQ(bench.counter("drop_tx_too_long"), 1u);
  EXPECT_TRUE(bench.guest.send(guest_frame(1, 65535)));
  EXPECT_EQ(bench.take().size(), 1u);
}
TEST_P(Malicious_NetHeader, H9_H10_FramesOfNothingAndRunts) {
  Bench bench = make();
  for (std::uint32_t bytes = 0; bytes < 14; ++bytes) {
    const Segment segment{bench.guest.memory().allocate(64),
                          static_cast<std::uint32_t>(kNetHeaderBytes) + bytes};
    ASSERT_TRUE(bench.guest.tx().post(std::span(&segment, 1), 0));
  }
  EXPECT_TRUE(bench.take().empty());
  EXPECT_EQ(bench.counter("drop_tx_runt"), 14u);
  EXPECT_TRUE(bench.guest.send(guest_frame(1, 14)));
  EXPECT_EQ(bench.take().size(), 1u);
}

TEST_P(Malicious_ReceiveBuffer, S10_BufferThatIsNowhere) {
  offer({{1, 2048}});
  expect_one_lost("fault_buffer_unmapped");
}
TEST_P(Malicious_ReceiveBuffer, S10_BufferWhoseLastByteIsOutside) {
  offer({{MockMemory::kBase + (std::uint64_t{512} << 20) - 2047, 2048}});
  expect_one_lost("fault_buffer_unmapped");
}
TEST_P(Malicious_ReceiveBuffer, S10_BufferThatWrapsTheAddressSpace) {
  offer({{~std::uint64_t{0} - 10, 2048}});
  expect_one_lost("fault_buffer_unmapped");
}
TEST_P(Malicious_ReceiveBuffer, S10_ChainPartlyNowhere) {
  offer({{room_, 40}, {1, 40}, {room_ + 2048, 2048}});
  expect_one_lost("fault_buffer_unmapped");
}
TEST_P(Malicious_ReceiveBuffer, S11_DescriptorOfNoBytes) {
  offer({{room_, 0}});
  expect_one_lost("fault_buffer_empty");
}
TEST_P(Malicious_ReceiveBuffer, S11_DescriptorOfFourGigabytes) {
  offer({{room_, 0xffffffff}});
  expect_one_lost("fault_buffer_unmapped");
}
TEST_P(Malicious_ReceiveBuffer, S12_BufferToReadOnly) {
  offer({{room_, 2048}});
  make_read_only(0);
  expect_one_lost("fault_buffer_direction");
}
TEST_P(Malicious_ReceiveBuffer, S12_ChainThatBeginsReadOnly) {
  offer({{room_, 12}, {room_ + 12, 2048}});
  make_read_only(0);
  expect_one_lost("fault_buffer_direction");
}
TEST_P(Malicious_ReceiveBuffer, S12_ChainThatEndsReadOnly) {
  offer({{room_, 12}, {room_ + 12, 2000}, {room_ + 2048, 1}});
  make_read_only(2);
  expect_one_lost("fault_buffer_direction");
}
TEST_P(Malicious_ReceiveBuffer, S13_BufferTooSmallForTheHeader) {
  offer({{room_, kNetHeaderBytes - 1}});
  expect_one_lost("fault_buffer_header");
}
TEST_P(Malicious_ReceiveBuffer, S13_ChainTooSmallForTheHeader) {
  offer({{room_, 1}, {room_ + 8, 4}, {room_ + 16, 6}});
  expect_one_lost("fault_buffer_header");
}
TEST_P(Malicious_ReceiveBuffer, S13_BadBufferInTheMiddleOfAMergedFrame) {
  offer({{room_, 100}});
  offer({{1, 100}});
  offer({{room_ + 1000, 2000}});
  bench_.deliver(guest_frame(9, 300));
  EXPECT_EQ(written(), (std::vector<std::uint32_t>{0, 0, 312})) << "the first is lost with it";
  EXPECT_EQ(in_memory(room_ + 1000 + kNetHeaderBytes, 300), guest_frame(9, 300));
  EXPECT_EQ(bench_.counter("fault_buffer_unmapped"), 1u);
  EXPECT_EQ(bench_.counter("rx_packets"), 1u);
}
TEST_P(Malicious_ReceiveBuffer, S13_MergedFrameInMoreBuffersThanThereAreIsDroppedAndTheBuffersStay) {
  for (std::uint32_t i = 0; i < entries_; ++i) {
    offer({{room_, 12}});
  }
  bench_.deliver(guest_frame(9, 1500));
  EXPECT_EQ(bench_.counter("drop_ring_full"), 1u);
  bench_.deliver(guest_frame(9, 60));
  EXPECT_EQ(written(), std::vector<std::uint32_t>(6, 12)) << "72 bytes in buffers of 12";
  EXPECT_EQ(bench_.counter("rx_packets"), 1u);
  EXPECT_EQ(bench_.faults(), 0u);
}
TEST_P(Malicious_ReceiveBuffersOfALongRing, S13_MergedFrameInMoreThanABurstHasIsTooLongAndTheBuffersStay) {
  for (std::uint32_t i = 0; i < entries_; ++i) {
    offer({{room_, 12}});
  }
  bench_.deliver(guest_frame(9, kBurst * 12));
  EXPECT_EQ(bench_.counter("drop_too_long"), 1u);
  EXPECT_TRUE(written().empty());
  bench_.deliver(guest_frame(9, (kBurst - 1) * 12));
  EXPECT_EQ(written(), std::vector<std::uint32_t>(kBurst, 12));
  EXPECT_EQ(bench_.faults(), 0u);
}
// Not mergeable: a buffer that is too small is that frame's loss, not the ring's.
TEST_P(Malicious_ReceiveBufferUnmerged, S13_BufferTooSmallForTheFrame) {
  offer({{room_, 50}});
  bench_.deliver(guest_frame(5, 60));
  EXPECT_EQ(bench_.counter("drop_too_long"), 1u);
  EXPECT_TRUE(written().empty());
  bench_.deliver(guest_frame(6, 38));
  EXPECT_EQ(written(), std::vector<std::uint32_t>{50});
  EXPECT_EQ(bench_.counter("rx_packets"), 1u);
  EXPECT_EQ(bench_.faults(), 0u);
}
// A burst takes as many buffers as it has frames. One that no frame needed is as if it had not been taken.
TEST_P(Malicious_ReceiveBufferUnmerged, Regression_BadBufferThatWaitsForTheNextBurstIsCountedOnce) {
  offer({{room_, 512}});
  offer({{1, 512}});
  const Bytes long_one = guest_frame(1, 1000), fits = guest_frame(2, 60);
  std::array<Packet, 2> burst{packet_of(long_one), packet_of(fits)};
  bench_.deliver(burst);
  EXPECT_EQ(bench_.counter("drop_too_long"), 1u);
  EXPECT_EQ(written(), std::vector<std::uint32_t>{72});
  EXPECT_EQ(bench_.faults(), 0u) << "nobody has used it yet";
  offer({{room_, 512}});
  bench_.deliver(fits);
  EXPECT_EQ(written(), (std::vector<std::uint32_t>{0, 72}));
  EXPECT_EQ(bench_.counter("fault_buffer_unmapped"), 1u);
  EXPECT_EQ(bench_.faults(), 1u);
}
// Frames that are put together: a burst ends when there is no room for the next one.
TEST_P(GuestFrame, Regression_BadBufferThatWaitsForTheNextBurstIsCountedOnce) {
  Bench bench = make();
  for (std::uint32_t i = 0; i < 6; ++i) {
    ASSERT_TRUE(bench.guest.send(guest_frame(i, 65000), {.segments = {12, 30000}}));
  }
  const Segment nowhere{1, 100};
  ASSERT_TRUE(bench.guest.tx().post(std::span(&nowhere, 1), 0));
  EXPECT_EQ(bench.take().size(), 6u);
  EXPECT_EQ(bench.counter("fault_buffer_unmapped"), 1u);
  EXPECT_EQ(bench.faults(), 1u);
}
// S10, which is legal: adjacent regions are one memory to the guest, and two mappings to us.
TEST_P(GuestFrame, InABufferOverTheBorderOfAdjacentRegionsIsWhole) {
  MockMemory memory({{MockMemory::kBase, 32 << 20}, {MockMemory::kBase + (32 << 20), 4096}});
  GuestDevice device(Bench::default_policy(), {WorkerId{0}}, 1);
  MockGuest guest(memory, {.format = GetParam(), .entries = 16});
  guest.attach(device);
  const std::uint64_t border = MockMemory::kBase + (32 << 20);
  const Bytes frame = guest_frame(3, 400);
  Bytes whole(kNetHeaderBytes + frame.size());
  std::ranges::copy(frame, whole.begin() + kNetHeaderBytes);
  for (const std::uint32_t before : {1u, 12u, 20u, 150u, 411u}) {
    std::memcpy(memory.at(border - before, before), whole.data(), before);
    std::memcpy(memory.at(border, whole.size() - before), whole.data() + before, whole.size() - before);
    const Segment segment{border - before, static_cast<std::uint32_t>(whole.size())};
    ASSERT_TRUE(guest.tx().post(std::span(&segment, 1), 0));
    std::array<Packet, 4> packets;
    ASSERT_EQ(burst_of(device.lane(WorkerId{0}), packets), 1u);
    EXPECT_EQ(bytes_of(packets[0]), frame) << before;
    device.lane(WorkerId{0}).done(std::span(packets).first(1));

    const Segment room{border - before, 1024};
    ASSERT_TRUE(guest.rx().post(std::span(&room, 1), 0));
    Packet packet = packet_of(frame, 128);
    device.lane(WorkerId{0}).copy_in(BurstInfo{}, std::span(&packet, 1));
    ASSERT_TRUE(guest.rx().reap());
    Bytes got(whole.size());
    std::memcpy(got.data(), memory.at(border - before, before), before);
    std::memcpy(got.data() + before, memory.at(border, got.size() - before), got.size() - before);
    EXPECT_EQ(Bytes(got.begin() + kNetHeaderBytes, got.end()), frame) << before;
  }
}

TEST_P(GuestFrame, ComesFromAnAddressOfThePortOrIsDropped) {
  Bench bench = make();
  const Bytes forged = from({2, 0, 0, 0, 0, 9}, guest_frame(1, 60));
  ASSERT_TRUE(bench.guest.send(forged));
  ASSERT_TRUE(bench.guest.send(guest_frame(2, 60)));
  EXPECT_EQ(bench.take(), std::vector<Bytes>{guest_frame(2, 60)});
  EXPECT_EQ(bench.counter("drop_tx_source_mac"), 1u);

  GuestPolicy trusted = Bench::default_policy();
  trusted.trust = true;
  Bench trusting = make(std::move(trusted));
  ASSERT_TRUE(trusting.guest.send(forged));
  EXPECT_EQ(trusting.take(), std::vector<Bytes>{forged});
}
TEST_P(GuestFrame, WithoutAVlanHasNoTagOrIsDropped) {
  Bench bench = make();
  ASSERT_TRUE(bench.guest.send(tagged(guest_frame(1, 60), 7)));
  EXPECT_TRUE(bench.take().empty());
  EXPECT_EQ(bench.counter("drop_tx_vlan"), 1u);
}
TEST_P(GuestFrame, OfAnAccessVlanIsTaggedOnTheWayOutAndBareOnTheWayIn) {
  GuestPolicy policy = Bench::default_policy();
  policy.vlan = kVlan;
  Bench bench = make(std::move(policy));
  for (const std::size_t bytes : {60u, 128u, 400u, 1500u}) {
    ASSERT_TRUE(bench.guest.send(guest_frame(1, bytes)));
    EXPECT_EQ(bench.take(), std::vector<Bytes>{tagged(guest_frame(1, bytes), kVlan)});
    bench.deliver(tagged(guest_frame(2, bytes), kVlan));
    EXPECT_EQ(bench.guest.receive(), guest_frame(2, bytes));
    bench.deliver(tagged(guest_frame(2, bytes), kVlan), 32);
    EXPECT_EQ(bench.guest.receive(), guest_frame(2, bytes));
  }
  ASSERT_TRUE(bench.guest.send(guest_frame(1, kMaxFrameBytes - kVlanTagBytes + 1)));
  ASSERT_TRUE(bench.guest.send(guest_frame(2, kMaxFrameBytes - kVlanTagBytes)));
  EXPECT_EQ(bench.take(), std::vector<Bytes>{tagged(guest_frame(2, kMaxFrameBytes - kVlanTagBytes), kVlan)});
  EXPECT_EQ(bench.counter("drop_tx_too_long"), 1u) << "no frame is longer than 65,535 bytes with its tag";
  bench.deliver(guest_frame(3, 60));
  bench.deliver(tagged(guest_frame(3, 60), kVlan + 1));
  EXPECT_EQ(bench.guest.receive(), std::nullopt);
  EXPECT_EQ(bench.counter("drop_vlan"), 2u);
  ASSERT_TRUE(bench.guest.send(tagged(guest_frame(4, 60), kVlan)));
  EXPECT_TRUE(bench.take().empty());
  EXPECT_EQ(bench.counter("drop_tx_vlan"), 1u) << "the tag is the port's to push";
}

// One receive queue, filled by the workers of two queues of the NIC: a burst at a time.
TEST_P(GuestFrame, ComesOnceAlsoWhenTwoWorkersFillOneQueue) {
  Bench bench({.format = GetParam(), .entries = 256, .features = kVersion1 | kMergeable},
              Bench::default_policy(), {WorkerId{0}, WorkerId{1}});
  constexpr std::uint32_t kFrames = 20'000;
  auto fill = [&](std::uint16_t worker) {
    Lane& lane = bench.device.lane(WorkerId{worker});
    for (std::uint32_t i = 0; i < kFrames; ++i) {
      const Bytes frame = guest_frame(worker * kFrames + i, 60);
      Packet packet = packet_of(frame);
      lane.copy_in(BurstInfo{}, std::span(&packet, 1));
      lane.poll();
    }
  };
  std::thread first(fill, std::uint16_t{0}), second(fill, std::uint16_t{1});
  std::vector<std::uint8_t> seen(2 * kFrames);
  std::array<std::int64_t, 2> last{-1, -1};
  std::uint32_t received = 0;
  auto receive_all = [&] {
    while (auto frame = bench.guest.receive()) {
      std::uint32_t number = 0;
      std::memcpy(&number, frame->data() + 14, sizeof number);
      ASSERT_LT(number, 2 * kFrames);
      ASSERT_EQ(*frame, guest_frame(number, 60));
      ASSERT_EQ(seen[number]++, 0);
      std::int64_t& before = last[number / kFrames];
      ASSERT_LT(before, number);
      before = number;
      ++received;
    }
  };
  std::thread waits([&] {
    first.join();
    second.join();
  });
  for (std::uint32_t round = 0; round < 100'000; ++round) {
    receive_all();
  }
  waits.join();
  receive_all();
  EXPECT_EQ(received, bench.counter("rx_packets"));
  EXPECT_EQ(received + bench.counter("drop_ring_full") + bench.counter("drop_queue_busy"), 2 * kFrames);
  EXPECT_GT(received, 0u);
}

}  // namespace
}  // namespace sluice::test
