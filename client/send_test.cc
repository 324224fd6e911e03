// Sending: slots, wrap-around, a full ring, frames that cannot be, several lanes.
#include <gtest/gtest.h>

#include <array>
#include <optional>

#include "sluice/sluice.hpp"
#include "test_daemon.h"

namespace sluice {
namespace {

using testing::Bytes;
using testing::frame_of;
using testing::TestDaemon;
using testing::TestDaemonOptions;
using testing::TestFolder;
using testing::TestSession;

struct Attached {
  explicit Attached(TestDaemonOptions options = {}) : daemon(folder.socket(), options) {
    auto result = Port::attach(folder.socket());
    EXPECT_TRUE(result) << result.error().message;
    port.emplace(std::move(*result));
    worker = &daemon.session();
  }
  TestFolder folder;
  TestDaemon daemon;
  std::optional<Port> port;
  TestSession* worker = nullptr;
};

void write(Frame& frame, const Bytes& bytes) {
  std::memcpy(frame.data, bytes.data(), bytes.size());
  frame.length = static_cast<std::uint32_t>(bytes.size());
}

TEST(Send, CopiesFramesInOrder) {
  Attached a;
  Bytes first = frame_of(60, 1), second = frame_of(1514, 2);
  std::array<std::span<const std::byte>, 2> frames{first, second};
  EXPECT_EQ(a.port->send(frames), 2u);
  EXPECT_EQ(a.worker->take_tx(), (std::vector{first, second}));
}

TEST(Send, TakesWhatFitsWhenTheRingIsFullAndGoesOnWhenThereIsRoom) {
  Attached a;
  std::vector<Bytes> all;
  std::vector<std::span<const std::byte>> frames;
  for (unsigned i = 0; i < 12; ++i) {
    all.push_back(frame_of(60 + i, i));
  }
  frames.assign(all.begin(), all.end());
  ASSERT_EQ(a.port->send(frames), 8u);
  EXPECT_EQ(a.port->send(frames.back()), false);
  auto sent = a.worker->take_tx();
  ASSERT_EQ(a.port->send(std::span(frames).subspan(8)), 4u);
  for (Bytes& frame : a.worker->take_tx()) {
    sent.push_back(frame);
  }
  EXPECT_EQ(sent, all);
}

TEST(Send, WrapsAroundItsRing) {
  Attached a;
  for (unsigned i = 0; i < 1000; ++i) {
    ASSERT_TRUE(a.port->send(frame_of(60 + i % 100, i)));
    ASSERT_TRUE(a.port->send(frame_of(200, i)));
    ASSERT_TRUE(a.port->send(frame_of(300, i)));
    ASSERT_EQ(a.worker->take_tx(),
              (std::vector{frame_of(60 + i % 100, i), frame_of(200, i), frame_of(300, i)}));
  }
}

TEST(Send, SkipsAndCountsFramesThatCannotBe) {
  Attached a;
  Bytes runt = frame_of(13, 1), good = frame_of(14, 2), giant = frame_of(2049, 3),
        longest = frame_of(2048, 4);
  std::array<std::span<const std::byte>, 5> frames{runt, good, giant, longest, std::span<const std::byte>()};
  EXPECT_EQ(a.port->send(frames), 5u);
  EXPECT_EQ(a.worker->take_tx(), (std::vector{good, longest}));
  EXPECT_EQ(a.port->counters().tx_bad_length, 3u);
}

TEST(Send, WakesASleepingDaemonAndOnlyASleepingOne) {
  Attached a;
  ASSERT_TRUE(a.port->send(frame_of(60, 1)));
  EXPECT_EQ(a.worker->kicks(), 0u);
  a.worker->take_tx();
  a.worker->sleep();
  ASSERT_TRUE(a.port->send(frame_of(60, 1)));
  EXPECT_EQ(a.worker->kicks(), 1u);
}

TEST(Send, UsesOnlyLanesThatReachTheUplink) {
  Attached a({.lanes = 3, .tx_lanes = 0b100});
  ASSERT_TRUE(a.port->send(frame_of(60, 1)));
  EXPECT_TRUE(a.worker->take_tx(0).empty());
  EXPECT_TRUE(a.worker->take_tx(1).empty());
  EXPECT_EQ(a.worker->take_tx(2), std::vector<Bytes>{frame_of(60, 1)});
}

TEST(Send, TakesTheNextLaneWhenOneIsFull) {
  Attached a({.lanes = 2});
  for (unsigned i = 0; i < 16; ++i) {
    ASSERT_TRUE(a.port->send(frame_of(60, i)));
  }
  EXPECT_FALSE(a.port->send(frame_of(60, 99)));
  EXPECT_EQ(a.worker->take_tx(0).size(), 8u);
  EXPECT_EQ(a.worker->take_tx(1).size(), 8u);
}

TEST(Send, SaysWhenNoLaneReachesAnUplink) {
  Attached a({.tx_lanes = 0});
  std::array<Frame, 4> frames;
  EXPECT_FALSE(a.port->info().can_send);
  EXPECT_FALSE(a.port->send(frame_of(60, 1)));
  EXPECT_EQ(a.port->reserve(frames), 0u);
}

TEST(Reserve, GivesRoomThatBecomesFramesWhenCommitted) {
  Attached a;
  std::array<Frame, 20> frames;
  ASSERT_EQ(a.port->reserve(frames), 8u);
  for (unsigned i = 0; i < 8; ++i) {
    EXPECT_EQ(frames[i].room, 2048u);
    write(frames[i], frame_of(100, i));
  }
  EXPECT_TRUE(a.worker->take_tx().empty()) << "sent before the commit";
  EXPECT_EQ(a.port->commit(std::span(frames).first(3)), 3u);
  EXPECT_EQ(a.worker->take_tx(), (std::vector{frame_of(100, 0), frame_of(100, 1), frame_of(100, 2)}));
}

TEST(Reserve, LetsAFrameBeginAnywhereInItsRoom) {
  Attached a;
  std::array<Frame, 1> frames;
  ASSERT_EQ(a.port->reserve(frames), 1u);
  frames[0].data += 100;
  write(frames[0], frame_of(1948, 1));
  ASSERT_EQ(a.port->commit(frames), 1u);
  EXPECT_EQ(a.worker->take_tx(), std::vector<Bytes>{frame_of(1948, 1)});
}

TEST(Reserve, CommitStopsAtTheFirstFrameThatIsNotInItsRoom) {
  Attached a;
  std::array<Frame, 3> frames;
  auto commit_second = [&](auto&& spoil) {
    EXPECT_EQ(a.port->reserve(frames), 3u);
    for (Frame& frame : frames) {
      write(frame, frame_of(60, 1));
    }
    spoil(frames[1]);
    std::size_t queued = a.port->commit(frames);
    a.worker->take_tx();
    return queued;
  };
  EXPECT_EQ(commit_second([](Frame&) {}), 3u);
  EXPECT_EQ(commit_second([](Frame& frame) { frame.length = 0; }), 1u);
  EXPECT_EQ(commit_second([](Frame& frame) { frame.length = 2049; }), 1u);
  EXPECT_EQ(commit_second([](Frame& frame) { frame.length = ~0u; }), 1u);
  EXPECT_EQ(commit_second([](Frame& frame) { frame.data -= 1; }), 1u);
  EXPECT_EQ(commit_second([](Frame& frame) { frame.data += 2000; }), 1u);
  EXPECT_EQ(commit_second([](Frame& frame) { frame.data += 4096; }), 1u);
  EXPECT_EQ(commit_second([](Frame& frame) { frame.data = nullptr; }), 1u);
}

TEST(Reserve, IsVoidAfterTheNextSendAndCanBeCommittedOnce) {
  Attached a;
  std::array<Frame, 1> frames;
  ASSERT_EQ(a.port->reserve(frames), 1u);
  write(frames[0], frame_of(60, 1));
  EXPECT_EQ(a.port->commit(frames), 1u);
  EXPECT_EQ(a.port->commit(frames), 0u);
  ASSERT_EQ(a.port->reserve(frames), 1u);
  write(frames[0], frame_of(60, 2));
  ASSERT_TRUE(a.port->send(frame_of(60, 3)));
  EXPECT_EQ(a.port->commit(frames), 0u);
  EXPECT_EQ(a.worker->take_tx(), (std::vector{frame_of(60, 1), frame_of(60, 3)}));
}

}  // namespace
}  // namespace sluice
