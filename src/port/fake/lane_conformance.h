// What every lane promises (port.h), as one suite per interface, each run on every implementation:
// SinkConformance, SourceConformance, SleeperConformance.
//
// An implementation brings a small adapter (LaneUnderTest: its lane, and its other side) and instantiates:
//
//   SLUICE_LANE_CONFORMANCE(FakeLane, LaneFactory{&make_fake_lane});
//
// A factory that returns null skips, with the reason it wrote. The lane is decorated with CheckedLane, so
// that each of these tests also asks whether ownership is respected. The test thread is the worker.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "port/burst_of.h"
#include "port/fake/checked.h"
#include "port/port.h"
#include "port/test_frames.h"

namespace sluice {

// The far end of a lane. Nothing here blocks; whatever takes time is asked again until a deadline.
class LaneUnderTest {
 public:
  virtual ~LaneUnderTest() = default;
  virtual Lane& lane() = 0;
  // A frame that this lane accepts, recognisable by `number`; at least 60 bytes.
  virtual Bytes frame(std::uint32_t number, std::size_t bytes) { return numbered_frame(number, bytes); }

  // --- as a sink ---
  // The next frame that has come out at the other side; its page, if it has one, is given back at once.
  virtual std::optional<Bytes> read() = 0;
  // Sinks that only copy never take a page, and are asked nothing about pages of their own.
  bool takes_pages() { return lane().accepts().pages_of != Capabilities::kNoPages; }
  // A frame in a page of the lane's own domain, as a worker that has received it holds it; false: no page is
  // free.
  virtual bool hold(std::span<const std::byte>, Packet&) { return false; }
  // Pages that the worker still holds go home.
  virtual void release(std::span<const Packet>) {}
  // Pages of the lane's domain that are not at home: in the worker's hand, lent, on their way.
  virtual std::uint32_t pages_out() { return 0; }
  // The peer dies without a word; false: it has no peer that could (a NIC).
  virtual bool abandon() { return false; }

  // --- as a source ---
  // The peer, or the wire, puts a frame in; false: full, try again when the lane has been served.
  virtual bool send(std::span<const std::byte>) { return false; }
  // Whose frames lie in pages: what its pool has altogether. 0: they are a peer's, and have none.
  virtual std::uint32_t pool_pages() { return 0; }
  // Until the next call of this: the peer gives more between any two looks of the lane at its rings, and
  // never ends. Asked before each call of the lane; false: this peer cannot.
  virtual bool give_without_end() { return false; }
};

struct LaneFactory {
  std::function<std::unique_ptr<LaneUnderTest>(std::string& why_not)> make;
};
inline void PrintTo(const LaneFactory&, std::ostream* out) {
  *out << "lane";
}

#define SLUICE_LANE_CONFORMANCE(name, ...)                                       \
  INSTANTIATE_TEST_SUITE_P(name, SinkConformance, testing::Values(__VA_ARGS__)); \
  SLUICE_SOURCE_CONFORMANCE(name, __VA_ARGS__)
#define SLUICE_SOURCE_CONFORMANCE(name, ...)                                       \
  INSTANTIATE_TEST_SUITE_P(name, SourceConformance, testing::Values(__VA_ARGS__)); \
  INSTANTIATE_TEST_SUITE_P(name, SleeperConformance, testing::Values(__VA_ARGS__))

class LaneConformance : public testing::TestWithParam<LaneFactory> {
 protected:
  void SetUp() override {
    std::string why_not;
    under_test_ = GetParam().make(why_not);
    if (under_test_ == nullptr) {
      GTEST_SKIP() << why_not;
    }
    lane_ = std::make_unique<CheckedLane>(under_test_->lane(), book_);
    packets_.fill(Packet{.head = reinterpret_cast<const std::byte*>(1),
                         .extra = reinterpret_cast<const PacketExtra*>(1),
                         .page = PageIndex{3},
                         .rule = 5,
                         .head_bytes = 9});
  }
  // The next burst, waiting for it; empty at the deadline.
  std::span<Packet> burst(std::uint32_t room = kBurst) {
    std::uint32_t count = 0;
    wait_until([&] {
      lane_->poll();
      info_ = BurstInfo{};
      count = lane_->burst(std::span(packets_).first(room), info_);
      return count > 0;
    });
    return std::span(packets_).first(count);
  }
  // A frame of another domain, split into head and body as a peer's frame is.
  static Packet foreign(const Bytes& frame, std::uint16_t head_bytes) {
    return Packet{.body = frame.data() + head_bytes,
                  .head = head_bytes > 0 ? frame.data() : nullptr,
                  .body_bytes = static_cast<std::uint32_t>(frame.size()) - head_bytes,
                  .head_bytes = head_bytes};
  }
  BurstInfo other() {
    return BurstInfo{.domain = static_cast<DomainId>(raw(domain()) + 1), .timestamp_ns = now_ns()};
  }
  DomainId domain() const { return lane_->accepts().pages_of; }

  PageBook book_;
  std::unique_ptr<LaneUnderTest> under_test_;
  std::unique_ptr<CheckedLane> lane_;
  std::array<Packet, kBurst> packets_;
  BurstInfo info_;
};

class SinkConformance : public LaneConformance {
 protected:
  BurstInfo own() { return BurstInfo{.domain = domain(), .timestamp_ns = now_ns()}; }
  std::vector<Packet> hold(std::uint32_t first_number, std::uint32_t count, std::size_t bytes = 60) {
    std::vector<Packet> packets;
    for (std::uint32_t i = 0; i < count; ++i) {
      Packet packet;
      if (!under_test_->hold(under_test_->frame(first_number + i, bytes), packet)) {
        break;
      }
      book_.received(domain(), packet.page);
      packets.push_back(packet);
    }
    return packets;
  }
  void release(std::span<const Packet> packets) {
    for (const Packet& packet : packets) {
      book_.gone(domain(), packet.page);
    }
    under_test_->release(packets);
  }
  std::optional<Bytes> next() {
    std::optional<Bytes> frame;
    wait_until([&] {
      lane_->poll();
      frame = under_test_->read();
      return frame.has_value();
    });
    return frame;
  }
  bool all_pages_come_home() {
    return wait_until([this] {
      lane_->poll();
      while (under_test_->read()) {
      }
      return under_test_->pages_out() == 0;
    });
  }
};

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(SinkConformance);

TEST_P(SinkConformance, HandsOverFramesUnchangedAndInOrder) {
  if (!under_test_->takes_pages()) {
    GTEST_SKIP() << "this sink only copies";
  }
  auto packets = hold(0, kBurst, 300);
  ASSERT_EQ(packets.size(), kBurst);
  lane_->hand_over(own(), packets);
  for (std::uint32_t i = 0; i < kBurst; ++i) {
    EXPECT_EQ(packets[i].page, PageIndex::kNone);
    auto frame = next();
    ASSERT_TRUE(frame) << "frame " << i;
    EXPECT_EQ(*frame, under_test_->frame(i, 300)) << "frame " << i;
  }
}

TEST_P(SinkConformance, CopiesFramesUnchangedAndInOrderWhateverTheSplitOfHeadAndBody) {
  std::vector<Bytes> frames;
  std::vector<Packet> packets;
  for (std::uint32_t i = 0; i < 20; ++i) {
    frames.push_back(under_test_->frame(i, 60 + 37 * std::size_t{i}));
    packets.push_back(foreign(frames.back(), static_cast<std::uint16_t>(std::min(i * 7, kMaxHead))));
  }
  packets.push_back(foreign(frames[0], 60));  // nothing but a head
  frames.push_back(frames[0]);
  lane_->copy_in(other(), packets);
  for (const Bytes& sent : frames) {
    auto frame = next();
    ASSERT_TRUE(frame);
    EXPECT_EQ(*frame, sent);
  }
}

TEST_P(SinkConformance, CopiesFramesUnchangedWhateverSegmentsTheyLieIn) {
  std::mt19937 random(20261128);
  const std::uint32_t most_segments = std::min(lane_->accepts().segments, 200u);
  for (std::uint32_t round = 0; round < 100; ++round) {
    std::vector<std::unique_ptr<ScatteredFrame>> scattered;
    std::vector<Bytes> frames;
    std::vector<Packet> packets;
    BurstInfo info = other();
    for (std::uint32_t i = 0, count = 1 + below(random, 8); i < count; ++i) {
      frames.push_back(under_test_->frame(round * 8 + i, 60 + below(random, 1440)));
      const auto head_bytes = static_cast<std::uint16_t>(14 + below(random, 46));
      scattered.push_back(std::make_unique<ScatteredFrame>(frames.back(), head_bytes,
                                                           1 + below(random, most_segments), random));
      packets.push_back(scattered.back()->packet());
      info.most_segments =
          std::max(info.most_segments, static_cast<std::uint16_t>(packets.back().segments().size()));
    }
    lane_->copy_in(info, packets);
    scattered.clear();  // all of it was read by now
    for (const Bytes& sent : frames) {
      ASSERT_EQ(next(), sent) << round;
    }
  }
}

TEST_P(SinkConformance, CopyInTakesNoPage) {
  Bytes frame = under_test_->frame(1, 60);
  Packet packet = foreign(frame, 0);
  packet.page = PageIndex{7};
  book_.received(other().domain, packet.page);
  lane_->copy_in(other(), std::span(&packet, 1));
  EXPECT_EQ(packet.page, PageIndex{7});
}

TEST_P(SinkConformance, CopiedMemoryMayBeUsedAgainAtOnce) {
  Bytes frame = under_test_->frame(1, 500);
  const Bytes sent = frame;
  Packet packet = foreign(frame, 100);
  lane_->copy_in(other(), std::span(&packet, 1));
  std::ranges::fill(frame, std::byte{0xee});
  EXPECT_EQ(next(), sent);
}

TEST_P(SinkConformance, EmptyBurstsAreNothing) {
  lane_->hand_over(own(), {});
  lane_->copy_in(other(), {});
  EXPECT_EQ(burst_of(*lane_, {}), 0u);
  EXPECT_FALSE(under_test_->read());
}

// Far more than any ring holds, and a reader that reads nothing: D6.
TEST_P(SinkConformance, WhatItCannotTakeStaysWithTheWorker) {
  if (!under_test_->takes_pages()) {
    GTEST_SKIP() << "this sink only copies";
  }
  std::uint32_t taken = 0, left = 0;
  for (std::uint32_t round = 0; round < 2048 && left < 2 * kBurst; ++round) {
    auto packets = hold(round * kBurst, kBurst);
    if (packets.empty()) {
      break;  // every page is with the reader: no ring of this lane is shorter than the pages
    }
    lane_->hand_over(own(), packets);
    for (const Packet& packet : packets) {
      packet.page == PageIndex::kNone ? ++taken : ++left;
    }
    release(packets);
    lane_->poll();
  }
  EXPECT_GT(taken, 0u);
  EXPECT_EQ(book_.in_hand_count(), 0u);
  EXPECT_TRUE(all_pages_come_home()) << under_test_->pages_out() << " pages are out";
}

TEST_P(SinkConformance, CarriesFarMoreFramesThanItHasPages) {
  if (!under_test_->takes_pages()) {
    GTEST_SKIP() << "this sink only copies";
  }
  std::uint32_t carried = 0;
  for (std::uint32_t number = 0; number < 20'000;) {
    auto packets = hold(number, 16);
    lane_->hand_over(own(), packets);
    number += static_cast<std::uint32_t>(packets.size());
    release(packets);
    lane_->poll();
    while (under_test_->read()) {
      ++carried;
    }
  }
  EXPECT_GT(carried, 1000u);
  EXPECT_TRUE(all_pages_come_home()) << under_test_->pages_out() << " pages are out";
}

TEST_P(SinkConformance, Crash_PagesOfADeadPeerComeHomeAndItGetsNoMore) {
  if (!under_test_->takes_pages()) {
    GTEST_SKIP() << "this sink only copies";
  }
  auto packets = hold(0, kBurst);
  lane_->hand_over(own(), packets);
  release(packets);
  lane_->poll();
  if (!under_test_->abandon()) {
    GTEST_SKIP() << "this lane has no peer that could die";
  }
  EXPECT_TRUE(wait_until([this] {
    lane_->poll();
    return under_test_->pages_out() == 0;
  })) << under_test_->pages_out()
      << " pages are out";
  auto more = hold(100, 4);
  lane_->hand_over(own(), more);
  for (const Packet& packet : more) {
    EXPECT_NE(packet.page, PageIndex::kNone);
  }
  release(more);
}

class SourceConformance : public LaneConformance {};

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(SourceConformance);

TEST_P(SourceConformance, GivesFramesUnchangedInOrderEachOnce) {
  constexpr std::uint32_t kFrames = 3 * kBurst / 2;
  for (std::uint32_t i = 0; i < kFrames; ++i) {
    ASSERT_TRUE(under_test_->send(under_test_->frame(i, 60 + 5 * std::size_t{i})));
  }
  for (std::uint32_t number = 0; number < kFrames;) {
    const std::uint32_t room = number == 0 ? 5 : kBurst;
    auto burst = this->burst(room);
    ASSERT_FALSE(burst.empty()) << "after " << number;
    for (const Packet& packet : burst) {
      EXPECT_EQ(bytes_of(packet), under_test_->frame(number, 60 + 5 * std::size_t{number}));
      EXPECT_EQ(packet.page == PageIndex::kNone, under_test_->pool_pages() == 0);
      if (packet.page == PageIndex::kNone) {
        EXPECT_LE(packet.head_bytes, kMaxHead);
        EXPECT_EQ(packet.rule, raw(RuleSlot::kNone));
      }
      ++number;
    }
    lane_->done(burst);
  }
  EXPECT_EQ(burst_of(*lane_, packets_), 0u);
  EXPECT_EQ(book_.in_hand_count(), 0u);
}

TEST_P(SourceConformance, GivesForEverBecausePagesThatNobodyTookComeBack) {
  if (under_test_->pool_pages() == 0) {
    GTEST_SKIP() << "its frames have no pages";
  }
  const std::uint32_t wanted = 2 * under_test_->pool_pages() + 100;
  std::uint32_t given = 0;
  for (std::uint32_t sent = 0; given < wanted;) {
    for (int i = 0; i < 32 && sent < wanted && under_test_->send(under_test_->frame(sent, 60)); ++i) {
      ++sent;
    }
    auto burst = this->burst();
    ASSERT_FALSE(burst.empty()) << "after " << given << " of " << wanted;
    given += static_cast<std::uint32_t>(burst.size());
    lane_->done(burst);
  }
}

TEST_P(SourceConformance, TakesBackOnlyPagesThatNobodyTook) {
  if (under_test_->pool_pages() == 0) {
    GTEST_SKIP() << "its frames have no pages";
  }
  for (std::uint32_t i = 0; i < 8; ++i) {
    ASSERT_TRUE(under_test_->send(under_test_->frame(i, 60)));
  }
  std::uint32_t seen = 0;
  while (seen < 8) {
    auto burst = this->burst(1);
    ASSERT_EQ(burst.size(), 1u);
    // Every second one leaves through the lane itself, so it is not to go home. The decorator checks.
    if (seen++ % 2 == 0) {
      lane_->hand_over(info_, burst);
    }
    lane_->done(burst);
  }
  EXPECT_EQ(book_.in_hand_count(), 0u);
}

// D6: whatever the peer does between two looks.
TEST_P(SourceConformance, Malicious_ACallHandlesABurstHoweverFastThePeerGivesMore) {
  if (!under_test_->give_without_end()) {
    GTEST_SKIP() << "this lane's peer cannot give between two looks";
  }
  const Bytes frame = under_test_->frame(1, 600);
  for (std::uint32_t turn = 0; turn < 200; ++turn) {
    ASSERT_TRUE(under_test_->give_without_end());
    const std::span<Packet> packets = std::span(packets_).first(1 + turn % kBurst);
    const std::uint32_t count = burst_of(*lane_, packets);
    ASSERT_LE(count, packets.size());
    if (count > 0) {
      lane_->done(packets.first(count));
    }
    packets_.fill(foreign(frame, 60));
    ASSERT_TRUE(under_test_->give_without_end());
    lane_->copy_in(other(), packets);
    ASSERT_TRUE(under_test_->give_without_end());
    lane_->poll();
  }
}

class SleeperConformance : public LaneConformance {};

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(SleeperConformance);

TEST_P(SleeperConformance, PollEndsWithNothingToDo) {
  EXPECT_TRUE(wait_until([this] { return lane_->poll() == 0; }));
}

TEST_P(SleeperConformance, RefusesToSleepOverAFrameThatWaits) {
  ASSERT_TRUE(under_test_->send(under_test_->frame(1, 60)));
  EXPECT_TRUE(wait_until([this] {
    lane_->poll();
    const bool work = lane_->prepare_sleep();
    lane_->woken();
    return work;
  }));
  lane_->done(burst());
}

TEST_P(SleeperConformance, AFrameSentAfterPrepareSleepWakesOnceAndForAll) {
  ASSERT_GE(lane_->wake_fd(), 0);
  for (std::uint32_t round = 0; round < 3; ++round) {
    ASSERT_TRUE(wait_until([this] { return lane_->poll() == 0; }));
    ASSERT_FALSE(lane_->prepare_sleep());
    EXPECT_FALSE(readable(lane_->wake_fd(), 0));
    ASSERT_TRUE(under_test_->send(under_test_->frame(round, 60)));
    EXPECT_TRUE(readable(lane_->wake_fd(), 5000));
    lane_->woken();
    auto burst = this->burst();
    EXPECT_EQ(burst.size(), 1u);
    lane_->done(burst);
    EXPECT_FALSE(readable(lane_->wake_fd(), 0))
        << "still readable when the work is done: the worker would never sleep";
  }
}

}  // namespace sluice
