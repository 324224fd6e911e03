#include "port/fake/fake.h"

#include <gtest/gtest.h>

#include "port/fake/checked.h"
#include "port/fake/lane_conformance.h"

namespace sluice {
namespace {

constexpr DomainId kApp{5};

class FakeLaneUnderTest final : public LaneUnderTest {
 public:
  Lane& lane() override { return lane_; }
  bool hold(std::span<const std::byte> frame, Packet& packet) override {
    const PageIndex page = arena_.alloc();
    if (page == PageIndex::kNone) {
      return false;
    }
    std::ranges::copy(frame, arena_.page(page));
    packet = Packet{
        .body = arena_.page(page), .body_bytes = static_cast<std::uint32_t>(frame.size()), .page = page};
    return true;
  }
  void release(std::span<const Packet> packets) override {
    for (const Packet& packet : packets) {
      if (packet.page != PageIndex::kNone) {
        arena_.release(packet.page);
      }
    }
  }
  std::optional<Bytes> read() override {
    auto frame = lane_.take();
    if (!frame) {
      return std::nullopt;
    }
    if (frame->page != PageIndex::kNone) {
      lane_.give_back(frame->page);
    }
    return frame->bytes;
  }
  std::uint32_t pages_out() override { return arena_.out(); }
  bool send(std::span<const std::byte> frame) override { return lane_.send(PortId{2}, frame); }
  bool abandon() override {
    lane_.abandon();
    return true;
  }

 private:
  FakeArena arena_{kApp, 512};
  FakeLane lane_{&arena_, {.domain = kApp, .ring = 256, .page_limit = 300}};
};

class FakeQueueUnderTest final : public LaneUnderTest {
 public:
  Lane& lane() override { return queue_; }
  bool hold(std::span<const std::byte> frame, Packet& packet) override {
    return queue_.arrive(PortId{2}, frame) && burst_of(queue_, std::span(&packet, 1)) == 1;
  }
  void release(std::span<const Packet> packets) override { queue_.done(packets); }
  std::optional<Bytes> read() override { return queue_.next_sent(); }
  std::uint32_t pages_out() override { return arena_.out(); }
  bool send(std::span<const std::byte> frame) override { return queue_.arrive(PortId{2}, frame); }
  std::uint32_t pool_pages() override { return arena_.page_count(); }

 private:
  FakeArena arena_{DomainId::kHost, 512};
  FakeQueue queue_{arena_, {.ring = 128}};
};

SLUICE_LANE_CONFORMANCE(FakeLane,
                        LaneFactory{[](std::string&) { return std::make_unique<FakeLaneUnderTest>(); }});
SLUICE_LANE_CONFORMANCE(FakeQueue,
                        LaneFactory{[](std::string&) { return std::make_unique<FakeQueueUnderTest>(); }});

TEST(FakeLane, Malicious_BelievesNoPageThatIsNotLent) {
  FakeArena arena(kApp, 8);
  FakeLane lane(&arena, {.domain = kApp});
  const PageIndex held = arena.alloc();
  EXPECT_TRUE(lane.give_back(held));
  EXPECT_TRUE(lane.give_back(PageIndex{7}));
  EXPECT_TRUE(lane.give_back(PageIndex::kNone));
  lane.poll();
  EXPECT_EQ(lane.fault_forged.value(), 3u);
  EXPECT_EQ(arena.out(), 1u);
}

// A worker that does what is forbidden, on a checked queue and a checked lane of the same domain.
class Checked : public testing::Test {
 protected:
  Packet receive_one() {
    const Bytes frame = numbered_frame(1, 60);
    queue_.arrive(PortId{5}, frame);
    Packet packet;
    EXPECT_EQ(checked_queue_.burst(std::span(&packet, 1), info_), 1u);
    return packet;
  }

  FakeArena arena_{kApp, 8};
  FakeQueue queue_{arena_, {}};
  FakeLane lane_{&arena_, {.domain = kApp}};
  FakeLane foreign_lane_{nullptr, {.domain = DomainId{6}}};
  PageBook book_{PageBook::OnViolation::kRefuse};
  CheckedLane checked_queue_{queue_, book_};
  CheckedLane checked_lane_{lane_, book_};
  CheckedLane checked_foreign_{foreign_lane_, book_};
  BurstInfo info_;
};

TEST_F(Checked, RefusesAPageThatIsHandedOverTwice) {
  Packet packet = receive_one();
  Packet copy = packet;
  checked_lane_.hand_over(info_, std::span(&packet, 1));
  EXPECT_EQ(packet.page, PageIndex::kNone);
  EXPECT_EQ(book_.violations(), 0u);
  checked_lane_.hand_over(info_, std::span(&copy, 1));
  EXPECT_EQ(book_.violations(), 1u);
  EXPECT_EQ(lane_.zero_copy.value(), 1u);
}

TEST_F(Checked, RefusesTheSamePageTwiceInOneBurst) {
  Packet packet = receive_one();
  std::array<Packet, 2> twice{packet, packet};
  checked_lane_.hand_over(info_, twice);
  EXPECT_EQ(book_.violations(), 1u);
  EXPECT_EQ(lane_.zero_copy.value(), 0u);
}

TEST_F(Checked, RefusesToTakeBackWhatWasTaken) {
  Packet packet = receive_one();
  const Packet before = packet;
  checked_lane_.hand_over(info_, std::span(&packet, 1));
  checked_queue_.done(std::span(&before, 1));
  EXPECT_EQ(book_.violations(), 1u);
  EXPECT_EQ(arena_.out(), 1u) << "the peer has it";
}

TEST_F(Checked, RefusesToTakeBackTwice) {
  const Packet packet = receive_one();
  checked_queue_.done(std::span(&packet, 1));
  checked_queue_.done(std::span(&packet, 1));
  EXPECT_EQ(book_.violations(), 1u);
}

TEST_F(Checked, RefusesPagesOfAnotherDomain) {  // D1
  Packet packet = receive_one();
  checked_foreign_.hand_over(info_, std::span(&packet, 1));
  EXPECT_EQ(book_.violations(), 1u);
  EXPECT_NE(book_.last().find("D1"), std::string::npos);
  EXPECT_EQ(foreign_lane_.waiting(), 0u);
}

TEST_F(Checked, StopsAtOnceUnlessToldToCount) {
  Packet packet = receive_one();
  PageBook strict;
  CheckedLane lane(lane_, strict);
  EXPECT_DEATH(lane.hand_over(info_, std::span(&packet, 1)), "page 0 of domain 5 handed over by a worker");
}

TEST_F(Checked, PairsDoneWithBurstAndWokenWithPrepareSleep) {
  lane_.send(PortId{2}, numbered_frame(1, 60));
  std::array<Packet, kBurst> packets;
  EXPECT_EQ(burst_of(checked_lane_, packets), 1u);
  checked_lane_.done(std::span(packets).first(2));
  EXPECT_EQ(book_.violations(), 1u);
  checked_lane_.done(std::span(packets).first(1));
  checked_lane_.woken();
  EXPECT_EQ(book_.violations(), 2u);
  checked_lane_.prepare_sleep();
  checked_lane_.prepare_sleep();
  EXPECT_EQ(book_.violations(), 3u);
}

}  // namespace
}  // namespace sluice
