// The daemon goes and comes: packets that are held stay, sessions are renewed, threads each find the new one.
#include <gtest/gtest.h>
#include <poll.h>

#include <array>
#include <atomic>
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
using testing::wait_until;

constexpr std::chrono::seconds kLong{10};

Bytes copy(const Packet& packet) {
  return {packet.bytes().begin(), packet.bytes().end()};
}

Port attach(const TestFolder& folder, AttachOptions options = {}) {
  auto port = Port::attach(folder.socket(), options);
  EXPECT_TRUE(port) << port.error().message;
  return std::move(*port);
}

TEST(Crash_Daemon, IsNoticedBySpinningReceives) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {});
  Port port = attach(folder);
  std::array<Packet, 8> packets;
  daemon.session().hang_up();
  wait_until([&] { return port.receive(packets) == 0 && port.info().attaches == 2; });
  daemon.session(2).deliver(frame_of(60, 2));
  EXPECT_EQ(port.receive(packets), 1u);
  EXPECT_EQ(copy(packets[0]), frame_of(60, 2));
}

TEST(Crash_Daemon, IsNoticedByASleepingReceive) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {});
  Port port = attach(folder);
  std::thread operations([&] {
    daemon.session().hang_up();
    daemon.session(2).deliver(frame_of(60, 2));
  });
  std::array<Packet, 8> packets;
  EXPECT_EQ(port.receive_for(packets, kLong), 1u);
  EXPECT_EQ(copy(packets[0]), frame_of(60, 2));
  EXPECT_EQ(port.info().attaches, 2u);
  operations.join();
}

TEST(Crash_Daemon, IsNoticedThroughTheDescriptorWhichAlsoDrivesTheReattach) {
  TestFolder folder;
  auto daemon = std::make_unique<TestDaemon>(folder.socket(), TestDaemonOptions{});
  Port port = attach(folder);
  std::array<Packet, 8> packets;
  const int fd = port.fd();
  auto turn = [&] {
    if (port.arm()) {
      pollfd query{fd, POLLIN, 0};
      EXPECT_EQ(::poll(&query, 1, 10'000), 1) << "nothing woke the loop";
    }
    return port.receive(packets);
  };
  daemon.reset();
  wait_until([&] { return turn() == 0 && !port.attached(); });
  wait_until([&] { return turn() == 0 && !port.last_error().empty(); });
  daemon = std::make_unique<TestDaemon>(folder.socket(), TestDaemonOptions{});
  wait_until([&] { return turn() == 0 && port.attached(); });
  EXPECT_EQ(port.fd(), fd);
  EXPECT_EQ(port.last_error(), "");
  daemon->session().deliver(frame_of(60, 3));
  EXPECT_EQ(turn(), 1u);
  EXPECT_EQ(copy(packets[0]), frame_of(60, 3));
}

TEST(Crash_Daemon, WhatItPublishedBeforeItsEndIsStillReceived) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {});
  Port port = attach(folder);
  daemon.session().deliver(frame_of(60, 1));
  daemon.session().hang_up();
  std::array<Packet, 8> packets;
  EXPECT_EQ(port.receive_for(packets, kLong), 1u);
  EXPECT_EQ(copy(packets[0]), frame_of(60, 1));
}

TEST(Crash_Daemon, LeavesHeldPacketsReadableAndTheirReturnTouchesNothing) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {});
  std::array<Packet, 8> packets;
  std::vector<Packet> kept(2);
  {
    Port port = attach(folder);
    daemon.session(1).deliver(frame_of(700, 1));
    daemon.session(1).deliver(frame_of(700, 2));
    ASSERT_EQ(port.receive(kept), 2u);
    daemon.session(1).hang_up();
    wait_until([&] { return port.receive(packets) == 0 && port.info().attaches == 2; });
    EXPECT_EQ(port.info().pages_held, 0u);

    std::uint32_t page = daemon.session(2).deliver(frame_of(60, 3));
    ASSERT_EQ(port.receive(packets), 1u);
    EXPECT_EQ(copy(kept[0]), frame_of(700, 1));
    kept[0].release();
    Port::release(packets);
    port.flush();
    EXPECT_EQ(daemon.session(2).take_back(), std::vector{page})
        << "a page of the old session came back to the new one";
  }
  EXPECT_EQ(copy(kept[1]), frame_of(700, 2)) << "after its session and its port";
}

TEST(Crash_Daemon, ManyTimesLeaksNeitherDescriptorsNorMappings) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {});
  Port port = attach(folder);
  std::array<Packet, 8> packets;
  auto lowest_free = [] {
    int fd = ::dup(0);
    ::close(fd);
    return fd;
  };
  std::vector<int> heights;
  for (std::size_t i = 1; i <= 20; ++i) {
    daemon.session(i).hang_up();
    wait_until([&] { return port.receive(packets) == 0 && port.info().attaches == i + 1; });
    heights.push_back(lowest_free());
  }
  // The test daemon keeps 9 descriptors per session; ours go.
  EXPECT_LE(heights.back() - heights.front(), 19 * 9);
}

TEST(Crash_Daemon, AReservationOfItsSessionIsVoidAndHarmless) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {});
  Port port = attach(folder);
  std::array<Packet, 8> packets;
  std::array<Frame, 2> frames;
  ASSERT_EQ(port.reserve(frames), 2u);
  daemon.session(1).hang_up();
  wait_until([&] { return port.receive(packets) == 0 && port.info().attaches == 2; });
  std::memset(frames[0].data, 1, frames[0].room);
  frames[0].length = 60;
  EXPECT_EQ(port.commit(frames), 0u);
  EXPECT_TRUE(daemon.session(2).take_tx().empty());
  EXPECT_TRUE(daemon.session(2).tx_is_zero()) << "written into the new session's memory";
  EXPECT_TRUE(port.send(frame_of(60, 1)));
}

TEST(Crash_Daemon, IsNoticedByAProgramThatOnlySends) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {});
  Port port = attach(folder);
  daemon.session(1).hang_up();
  wait_until([&] {
    port.send(frame_of(60, 1));
    return port.info().attaches == 2;
  });
  ASSERT_TRUE(port.send(frame_of(60, 2)));
  EXPECT_EQ(daemon.session(2).take_tx().back(), frame_of(60, 2));
}

TEST(Crash_Daemon, SendingLosesNothingThatIsStillToBeReceived) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {});
  Port port = attach(folder);
  daemon.session(1).deliver(frame_of(60, 1));
  daemon.session(1).hang_up();
  for (int i = 0; i < 5000; ++i) {
    port.send(frame_of(60, 1));
  }
  std::array<Packet, 8> packets;
  ASSERT_EQ(port.receive(packets), 1u);
  EXPECT_EQ(copy(packets[0]), frame_of(60, 1));
}

TEST(Crash_Daemon, CountersGoOnOverSessions) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {});
  Port port = attach(folder);
  std::array<Packet, 8> packets;
  daemon.session(1).stats(0).rx_packets = 10;
  daemon.session(1).hang_up();
  wait_until([&] { return port.receive(packets) == 0 && port.info().attaches == 2; });
  daemon.session(2).stats(0).rx_packets = 5;
  EXPECT_EQ(port.counters().rx_packets, 15u);
}

TEST(Reattach, IsLeftOutWhenNotWanted) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {});
  Port port = attach(folder, {.reattach = false});
  std::array<Packet, 8> packets;
  daemon.session().hang_up();
  EXPECT_EQ(port.receive_for(packets, kLong), 0u);
  EXPECT_FALSE(port.attached());
  EXPECT_EQ(port.receive(packets), 0u);
  EXPECT_FALSE(port.send(frame_of(60, 1)));
  EXPECT_EQ(port.info().daemon_pid, 0);
  EXPECT_EQ(daemon.attaches(), 1u);
}

TEST(Reattach, FindsADaemonWithOtherLanesAndSizes) {
  TestFolder folder;
  auto daemon = std::make_unique<TestDaemon>(folder.socket(), TestDaemonOptions{.lanes = 3});
  Port port = attach(folder);
  std::array<Packet, 8> packets;
  daemon.reset();
  daemon = std::make_unique<TestDaemon>(folder.socket(),
                                        TestDaemonOptions{.lanes = 5, .page_bytes = 4096, .rx_entries = 128});
  wait_until([&] { return port.receive(packets) == 0 && port.info().attaches == 2 && port.attached(); });
  for (std::uint32_t lane = 0; lane < 5; ++lane) {
    daemon->session().deliver(frame_of(3000, lane), lane);
  }
  EXPECT_EQ(port.receive(packets), 5u);
}

TEST(Split, GivesEveryPartItsLanes) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {.lanes = 5});
  Port port = attach(folder);
  auto parts = std::move(port).split(2);
  ASSERT_TRUE(parts) << parts.error().message;
  for (std::uint32_t lane = 0; lane < 5; ++lane) {
    daemon.session().deliver(frame_of(60, lane), lane);
  }
  std::array<Packet, 8> packets;
  EXPECT_EQ((*parts)[0].receive(packets), 3u);
  EXPECT_EQ((*parts)[1].receive(packets), 2u);
  EXPECT_FALSE(std::move((*parts)[0]).split(2)) << "a part was split again";
  EXPECT_EQ((*parts)[0].receive(packets), 0u) << "a failed split must leave the port as it was";
}

TEST(Split, KeepsPacketsAndRingPositionsOfTheWholePort) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {.lanes = 2});
  Port port = attach(folder);
  std::array<Packet, 8> packets;
  std::uint32_t page = daemon.session().deliver(frame_of(60, 1), 1);
  ASSERT_EQ(port.receive(packets), 1u);
  auto parts = std::move(port).split();
  ASSERT_TRUE(parts);
  ASSERT_EQ(parts->size(), 2u);
  Port::release(packets);
  (*parts)[1].flush();
  EXPECT_EQ(daemon.session().take_back(1), std::vector{page});
}

TEST(Split, RefusesMoreThan64Parts) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {});
  Port port = attach(folder);
  auto parts = std::move(port).split(65);
  ASSERT_FALSE(parts);
  EXPECT_EQ(parts.error().code, ErrorCode::kInvalid);
  EXPECT_TRUE(port.attached());
}

// Each thread receives on its own part while the daemon dies again and again under all of them.
TEST(Crash_Daemon, UnderManyThreadsEveryoneFindsTheNewSession) {
  constexpr std::size_t kThreads = 3, kRounds = 15;
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {.lanes = kThreads});
  Port port = attach(folder);
  auto parts = std::move(port).split();
  ASSERT_TRUE(parts);

  std::array<std::array<std::atomic<bool>, kThreads>, kRounds + 2> seen{};
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      Port& mine = (*parts)[i];
      std::vector<Packet> kept;
      std::array<Packet, 8> packets;
      while (!stop.load()) {
        std::size_t count =
            i == 0 ? mine.receive(packets) : mine.receive_for(packets, std::chrono::milliseconds(20));
        for (std::size_t p = 0; p < count; ++p) {
          seen[packets[p].bytes().size() - 60][i].store(true);
          kept.push_back(std::move(packets[p]));  // held across the sessions
        }
        mine.send(frame_of(60, 1));
      }
      for (const Packet& packet : kept) {
        EXPECT_EQ(copy(packet), frame_of(packet.bytes().size(), 9));
      }
    });
  }
  for (std::size_t round = 1; round <= kRounds; ++round) {
    auto& session = daemon.session(round);
    for (std::uint32_t lane = 0; lane < kThreads; ++lane) {
      session.deliver(frame_of(60 + round, 9), lane);
    }
    wait_until([&] {
      return std::all_of(seen[round].begin(), seen[round].end(), [](auto& s) { return s.load(); });
    });
    session.hang_up();
  }
  stop.store(true);
  for (auto& thread : threads) {
    thread.join();
  }
}

}  // namespace
}  // namespace sluice
