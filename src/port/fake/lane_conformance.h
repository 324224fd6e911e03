// What every Lane and every Queue promises (port.h), as one suite that runs on each implementation.
//
// An implementation brings a small adapter (LaneUnderTest, QueueUnderTest: its lane, and its other side) and
// instantiates:
//
//   INSTANTIATE_TEST_SUITE_P(Fake, LaneConformance, testing::Values(LaneFactory{&make_fake_lane}));
//
// A factory that returns null skips, with the reason it wrote. The lane is decorated with CheckedLane, so
// that each of these tests also asks whether ownership is respected. The test thread is the worker.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "port/fake/checked.h"
#include "port/port.h"

namespace sluice {

using Bytes = std::vector<std::byte>;

// The far end of a lane. Nothing here blocks; whatever takes time is asked again until a deadline.
class LaneUnderTest {
 public:
  virtual ~LaneUnderTest() = default;
  virtual Lane& lane() = 0;

  // A frame in a page of the lane's own domain, as a worker that has received it holds it; false: no page is
  // free.
  virtual bool hold(std::span<const std::byte> frame, Packet& packet) = 0;
  // Pages that the worker still holds go home.
  virtual void release(std::span<const Packet> packets) = 0;
  // The next frame that has come out at the other side; its page, if it has one, is given back at once.
  virtual std::optional<Bytes> read() = 0;
  // Pages of the lane's domain that are not at home: in the worker's hand, lent, on their way.
  virtual std::uint32_t pages_out() = 0;

  // Lanes that only copy never take a page, and are asked nothing about pages of their own.
  virtual bool takes_pages() const { return true; }
  // Lanes whose peer sends: the peer puts a frame into its ring; false: full, or this peer never sends.
  virtual bool peer_sends() const { return false; }
  virtual bool send(std::span<const std::byte>) { return false; }
  // The peer dies without a word; false: it has no peer that could (a NIC).
  virtual bool abandon() { return false; }
  // Until the next call of this: the peer gives more between any two looks of the lane at its rings, and
  // never ends. Asked before each call of the lane; false: this peer cannot.
  virtual bool give_without_end() { return false; }
  // A frame that this lane accepts, recognisable by `number`; at least 60 bytes.
  virtual Bytes frame(std::uint32_t number, std::size_t bytes);
};

class QueueUnderTest {
 public:
  virtual ~QueueUnderTest() = default;
  virtual Queue& queue() = 0;
  // A frame comes in from the wire; false: try again when the queue has been served.
  virtual bool arrive(std::span<const std::byte> frame) = 0;
  virtual std::uint32_t pool_pages() = 0;  // what the queue's pool has altogether
  virtual Bytes frame(std::uint32_t number, std::size_t bytes);
};

// Broadcast source and destination mean nothing to a lane; the number stands in bytes 14 .. 17.
inline Bytes numbered_frame(std::uint32_t number, std::size_t bytes) {
  Bytes frame(bytes);
  for (std::size_t i = 0; i < bytes; ++i) {
    frame[i] = static_cast<std::byte>(number * 31 + i);
  }
  constexpr std::array<std::uint8_t, 14> header{2, 0, 0, 0, 0, 2,    2,
                                                0, 0, 0, 0, 1, 0x88, 0xb5};  // IEEE 802 local experiment
  for (std::size_t i = 0; i < header.size(); ++i) {
    frame[i] = std::byte{header[i]};
  }
  for (std::size_t i = 0; i < 4; ++i) {
    frame[14 + i] = static_cast<std::byte>(number >> (8 * i));
  }
  return frame;
}

inline Bytes LaneUnderTest::frame(std::uint32_t number, std::size_t bytes) {
  return numbered_frame(number, bytes);
}
inline Bytes QueueUnderTest::frame(std::uint32_t number, std::size_t bytes) {
  return numbered_frame(number, bytes);
}

struct LaneFactory {
  std::function<std::unique_ptr<LaneUnderTest>(std::string& why_not)> make;
};
struct QueueFactory {
  std::function<std::unique_ptr<QueueUnderTest>(std::string& why_not)> make;
};
inline void PrintTo(const LaneFactory&, std::ostream* out) {
  *out << "lane";
}
inline void PrintTo(const QueueFactory&, std::ostream* out) {
  *out << "queue";
}

inline constexpr std::uint64_t kConformanceDeadlineNs = 5'000'000'000;

// Until `done` is true; false at the deadline.
template <typename Done>
bool wait_until(Done done) {
  const std::uint64_t deadline = now_ns() + kConformanceDeadlineNs;
  while (!done()) {
    if (now_ns() > deadline) {
      return false;
    }
    ::sched_yield();
  }
  return true;
}

inline bool readable(int fd, int timeout_ms) {
  pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&entry, 1, timeout_ms) == 1;
}

inline Bytes bytes_of(const Packet& packet) {
  Bytes bytes(packet.head, packet.head + packet.head_bytes);
  bytes.insert(bytes.end(), packet.body, packet.body + packet.body_bytes);
  return bytes;
}

class LaneConformance : public testing::TestWithParam<LaneFactory> {
 protected:
  void SetUp() override {
    std::string why_not;
    under_test_ = GetParam().make(why_not);
    if (under_test_ == nullptr) {
      GTEST_SKIP() << why_not;
    }
    lane_ = std::make_unique<CheckedLane>(under_test_->lane(), book_);
  }

  Source own() { return Source{.domain = lane_->domain(), .timestamp_ns = now_ns()}; }
  Source other() {
    return Source{.domain = static_cast<DomainId>(raw(lane_->domain()) + 1), .timestamp_ns = now_ns()};
  }

  std::vector<Packet> hold(std::uint32_t first_number, std::uint32_t count, std::size_t bytes = 60) {
    std::vector<Packet> packets;
    for (std::uint32_t i = 0; i < count; ++i) {
      Packet packet;
      if (!under_test_->hold(under_test_->frame(first_number + i, bytes), packet)) {
        break;
      }
      book_.received(lane_->domain(), packet.page);
      packets.push_back(packet);
    }
    return packets;
  }
  void release(std::span<const Packet> packets) {
    for (const Packet& packet : packets) {
      book_.gone(lane_->domain(), packet.page);
    }
    under_test_->release(packets);
  }
  // A frame of another domain, split into head and body as a peer's frame is.
  static Packet foreign(const Bytes& frame, std::uint32_t head_bytes) {
    return Packet{.body = frame.data() + head_bytes,
                  .head = head_bytes > 0 ? frame.data() : nullptr,
                  .body_bytes = static_cast<std::uint32_t>(frame.size()) - head_bytes,
                  .head_bytes = head_bytes};
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

  PageBook book_;
  std::unique_ptr<LaneUnderTest> under_test_;
  std::unique_ptr<CheckedLane> lane_;
};

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(LaneConformance);

TEST_P(LaneConformance, HandsOverFramesUnchangedAndInOrder) {
  if (!under_test_->takes_pages()) {
    GTEST_SKIP() << "this lane only copies";
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

TEST_P(LaneConformance, CopiesFramesUnchangedAndInOrderWhateverTheSplitOfHeadAndBody) {
  std::vector<Bytes> frames;
  std::vector<Packet> packets;
  for (std::uint32_t i = 0; i < 20; ++i) {
    frames.push_back(under_test_->frame(i, 60 + 37 * std::size_t{i}));
    packets.push_back(foreign(frames.back(), std::min<std::uint32_t>(i * 7, kMaxHead)));
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

TEST_P(LaneConformance, CopyInTakesNoPage) {
  Bytes frame = under_test_->frame(1, 60);
  Packet packet = foreign(frame, 0);
  packet.page = PageIndex{7};
  book_.received(other().domain, packet.page);
  lane_->copy_in(other(), std::span(&packet, 1));
  EXPECT_EQ(packet.page, PageIndex{7});
}

TEST_P(LaneConformance, CopiedMemoryMayBeUsedAgainAtOnce) {
  Bytes frame = under_test_->frame(1, 500);
  const Bytes sent = frame;
  Packet packet = foreign(frame, 100);
  lane_->copy_in(other(), std::span(&packet, 1));
  std::ranges::fill(frame, std::byte{0xee});
  EXPECT_EQ(next(), sent);
}

TEST_P(LaneConformance, EmptyBurstsAreNothing) {
  lane_->hand_over(own(), {});
  lane_->copy_in(other(), {});
  EXPECT_EQ(lane_->tx_burst({}), 0u);
  lane_->tx_done(0);
  EXPECT_FALSE(under_test_->read());
}

// Far more than any ring holds, and a reader that reads nothing: D6.
TEST_P(LaneConformance, WhatItCannotTakeStaysWithTheWorker) {
  if (!under_test_->takes_pages()) {
    GTEST_SKIP() << "this lane only copies";
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

TEST_P(LaneConformance, CarriesFarMoreFramesThanItHasPages) {
  if (!under_test_->takes_pages()) {
    GTEST_SKIP() << "this lane only copies";
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

TEST_P(LaneConformance, TxBurstGivesThePeersFramesInOrderEachOnce) {
  if (!under_test_->peer_sends()) {
    GTEST_SKIP() << "nobody sends on this lane";
  }
  constexpr std::uint32_t kFrames = 3 * kBurst / 2;
  for (std::uint32_t i = 0; i < kFrames; ++i) {
    ASSERT_TRUE(under_test_->send(under_test_->frame(i, 60 + i)));
  }
  std::array<Packet, kBurst> packets;
  packets.fill(Packet{
      .head = reinterpret_cast<const std::byte*>(1), .head_bytes = 9, .page = PageIndex{3}, .rule = 5});
  std::uint32_t number = 0;
  for (std::uint32_t room : {5u, kBurst, kBurst}) {
    const std::uint32_t count = lane_->tx_burst(std::span(packets).first(room));
    ASSERT_LE(count, room);
    for (std::uint32_t i = 0; i < count; ++i, ++number) {
      EXPECT_EQ(bytes_of(packets[i]), under_test_->frame(number, 60 + number));
      EXPECT_LE(packets[i].head_bytes, kMaxHead);
      EXPECT_EQ(packets[i].rule, raw(RuleSlot::kNone));
    }
    lane_->tx_done(count);
  }
  EXPECT_EQ(number, kFrames);
  EXPECT_EQ(lane_->tx_burst(packets), 0u);
  lane_->tx_done(0);
}

TEST_P(LaneConformance, PollEndsWithNothingToDo) {
  EXPECT_TRUE(wait_until([this] { return lane_->poll() == 0; }));
}

TEST_P(LaneConformance, RefusesToSleepOverAFrameThatWaits) {
  if (!under_test_->peer_sends()) {
    GTEST_SKIP() << "nobody sends on this lane";
  }
  ASSERT_TRUE(under_test_->send(under_test_->frame(1, 60)));
  EXPECT_TRUE(lane_->prepare_sleep());
  lane_->woken();
}

TEST_P(LaneConformance, AFrameSentAfterPrepareSleepWakesOnceAndForAll) {
  if (!under_test_->peer_sends() || lane_->wake_fd() < 0) {
    GTEST_SKIP() << "nobody sends on this lane";
  }
  for (std::uint32_t round = 0; round < 3; ++round) {
    ASSERT_TRUE(wait_until([this] { return lane_->poll() == 0; }));
    ASSERT_FALSE(lane_->prepare_sleep());
    EXPECT_FALSE(readable(lane_->wake_fd(), 0));
    ASSERT_TRUE(under_test_->send(under_test_->frame(round, 60)));
    EXPECT_TRUE(readable(lane_->wake_fd(), 5000));
    lane_->woken();
    std::array<Packet, kBurst> packets;
    const std::uint32_t count = lane_->tx_burst(packets);
    EXPECT_EQ(count, 1u);
    lane_->tx_done(count);
    EXPECT_FALSE(readable(lane_->wake_fd(), 0))
        << "still readable when the work is done: the worker would never sleep";
  }
}

TEST_P(LaneConformance, Crash_PagesOfADeadPeerComeHomeAndItGetsNoMore) {
  if (!under_test_->takes_pages()) {
    GTEST_SKIP() << "this lane only copies";
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

// D6: whatever the peer does between two looks.
TEST_P(LaneConformance, Malicious_ACallHandlesABurstHoweverFastThePeerGivesMore) {
  if (!under_test_->give_without_end()) {
    GTEST_SKIP() << "this lane's peer cannot give between two looks";
  }
  std::array<Packet, kBurst> packets;
  const Bytes frame = under_test_->frame(1, 600);
  for (std::uint32_t turn = 0; turn < 200; ++turn) {
    ASSERT_TRUE(under_test_->give_without_end());
    const std::uint32_t room = 1 + turn % kBurst;
    const std::uint32_t count = lane_->tx_burst(std::span(packets).first(room));
    ASSERT_LE(count, room);
    lane_->tx_done(count);
    packets.fill(foreign(frame, 60));
    ASSERT_TRUE(under_test_->give_without_end());
    lane_->copy_in(other(), std::span(packets).first(room));
    ASSERT_TRUE(under_test_->give_without_end());
    lane_->poll();
  }
}

class QueueConformance : public testing::TestWithParam<QueueFactory> {
 protected:
  void SetUp() override {
    std::string why_not;
    under_test_ = GetParam().make(why_not);
    if (under_test_ == nullptr) {
      GTEST_SKIP() << why_not;
    }
    queue_ = std::make_unique<CheckedQueue>(under_test_->queue(), book_);
    packets_.fill(Packet{.head = reinterpret_cast<const std::byte*>(1), .head_bytes = 9, .rule = 5});
  }

  // The next burst, waiting for it; empty at the deadline.
  std::span<Packet> receive(std::uint32_t room = kBurst) {
    std::uint32_t count = 0;
    wait_until([&] {
      queue_->poll();
      count = queue_->receive(std::span(packets_).first(room), source_);
      return count > 0;
    });
    return std::span(packets_).first(count);
  }

  PageBook book_;
  std::unique_ptr<QueueUnderTest> under_test_;
  std::unique_ptr<CheckedQueue> queue_;
  std::array<Packet, kBurst> packets_;
  Source source_;
};

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(QueueConformance);

TEST_P(QueueConformance, ReceivesFramesUnchangedAndInOrder) {
  constexpr std::uint32_t kFrames = 100;
  for (std::uint32_t i = 0; i < kFrames; ++i) {
    ASSERT_TRUE(under_test_->arrive(under_test_->frame(i, 60 + 5 * std::size_t{i})));
  }
  for (std::uint32_t number = 0; number < kFrames;) {
    auto burst = receive(17);
    ASSERT_FALSE(burst.empty()) << "after " << number;
    EXPECT_EQ(source_.domain, queue_->domain());
    for (const Packet& packet : burst) {
      EXPECT_EQ(packet.head_bytes, 0u);
      EXPECT_EQ(bytes_of(packet), under_test_->frame(number, 60 + 5 * std::size_t{number}));
      ++number;
    }
    queue_->recycle(burst);
  }
  EXPECT_EQ(book_.in_hand_count(), 0u);
}

TEST_P(QueueConformance, ReceivesForEverBecauseRecycledPagesComeBack) {
  const std::uint32_t wanted = 2 * under_test_->pool_pages() + 100;
  std::uint32_t received = 0;
  for (std::uint32_t arrived = 0; received < wanted;) {
    for (int i = 0; i < 32 && arrived < wanted && under_test_->arrive(under_test_->frame(arrived, 60)); ++i) {
      ++arrived;
    }
    auto burst = receive();
    ASSERT_FALSE(burst.empty()) << "after " << received << " of " << wanted;
    received += static_cast<std::uint32_t>(burst.size());
    queue_->recycle(burst);
  }
}

TEST_P(QueueConformance, RecyclesOnlyWhatNobodyTook) {
  for (std::uint32_t i = 0; i < 8; ++i) {
    ASSERT_TRUE(under_test_->arrive(under_test_->frame(i, 60)));
  }
  std::uint32_t seen = 0;
  while (seen < 8) {
    auto burst = receive(1);
    ASSERT_EQ(burst.size(), 1u);
    // Every second one leaves through the queue itself: handed over, so not to be recycled. The decorator
    // checks.
    if (seen++ % 2 == 0) {
      queue_->hand_over(source_, burst);
    }
    queue_->recycle(burst);
  }
  EXPECT_EQ(book_.in_hand_count(), 0u);
}

TEST_P(QueueConformance, HasNoFramesOfAPeer) {
  EXPECT_EQ(queue_->tx_burst(packets_), 0u);
  queue_->tx_done(0);
}

TEST_P(QueueConformance, RefusesToSleepOverAFrameThatWaits) {
  ASSERT_TRUE(under_test_->arrive(under_test_->frame(1, 60)));
  EXPECT_TRUE(wait_until([this] {
    queue_->poll();
    const bool work = queue_->prepare_sleep();
    queue_->woken();
    return work;
  }));
  queue_->recycle(receive());
}

TEST_P(QueueConformance, AFrameThatComesAfterPrepareSleepWakes) {
  ASSERT_GE(queue_->wake_fd(), 0);
  for (std::uint32_t round = 0; round < 3; ++round) {
    ASSERT_TRUE(wait_until([this] { return queue_->poll() == 0; }));
    ASSERT_FALSE(queue_->prepare_sleep());
    ASSERT_TRUE(under_test_->arrive(under_test_->frame(round, 60)));
    EXPECT_TRUE(readable(queue_->wake_fd(), 5000));
    queue_->woken();
    auto burst = receive();
    EXPECT_EQ(burst.size(), 1u);
    queue_->recycle(burst);
    EXPECT_FALSE(readable(queue_->wake_fd(), 0))
        << "still readable when the work is done: the worker would never sleep";
  }
}

}  // namespace sluice
