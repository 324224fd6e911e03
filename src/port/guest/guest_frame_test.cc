// What a guest may say about a frame that it sends, and what becomes of frames that it may not send: the
// virtio-net header, source addresses, VLAN tags. With both ring formats.
#include <gtest/gtest.h>

#include <thread>

#include "port/guest/guest_test_fixture.h"

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

std::string ring_name(const testing::TestParamInfo<VringFormat>& param) {
  return param.param == VringFormat::kSplit ? "split" : "packed";
}
INSTANTIATE_TEST_SUITE_P(Rings, GuestFrame, testing::Values(VringFormat::kSplit, VringFormat::kPacked),
                         ring_name);
INSTANTIATE_TEST_SUITE_P(Rings, Malicious_NetHeader,
                         testing::Values(VringFormat::kSplit, VringFormat::kPacked), ring_name);

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
      lane.copy_in(Source{}, std::span(&packet, 1));
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
  EXPECT_EQ(received + bench.counter("drop_ring_full"), 2 * kFrames);
  EXPECT_GT(received, 0u);
}

}  // namespace
}  // namespace sluice::test
