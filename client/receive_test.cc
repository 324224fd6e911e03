// Receiving and returning: the three ways to wait, the life of a packet, fairness, faults.
#include <gtest/gtest.h>
#include <sys/epoll.h>

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
using testing::TestSession;
using testing::wait_until;

constexpr std::chrono::seconds kLong{10};
constexpr std::chrono::milliseconds kShort{1};

constexpr std::uint32_t kForEverUs = ~0u;  // a spin of an hour, which no test outlasts

struct Attached {
  explicit Attached(TestDaemonOptions options = {}, const AttachOptions& attach = {})
      : daemon(folder.socket(), options) {
    auto result = Port::attach(folder.socket(), attach);
    EXPECT_TRUE(result) << result.error().message;
    port.emplace(std::move(*result));
    worker = &daemon.session();
  }
  ~Attached() { packets = {}; }
  TestFolder folder;
  TestDaemon daemon;
  std::optional<Port> port;
  TestSession* worker = nullptr;
  std::array<Packet, 32> packets;
};

Bytes copy(const Packet& packet) {
  return {packet.bytes().begin(), packet.bytes().end()};
}

TEST(Receive, GivesThePacketsInOrderWithAllThatIsKnownOfThem) {
  Attached a;
  std::uint32_t page = a.worker->deliver(frame_of(60, 1));
  a.worker->deliver(frame_of(1514, 2));
  ASSERT_EQ(a.port->receive(a.packets), 2u);
  EXPECT_EQ(copy(a.packets[0]), frame_of(60, 1));
  EXPECT_EQ(copy(a.packets[1]), frame_of(1514, 2));
  EXPECT_EQ(a.packets[0].rule(), 5u);
  EXPECT_EQ(a.packets[0].flow_hash(), 0xabcdu);
  EXPECT_EQ(a.packets[0].nic(), 2u);
  EXPECT_EQ(a.packets[0].queue(), 3u);
  EXPECT_EQ(a.packets[0].timestamp_ns(), 1'000'000u + page);
  EXPECT_FALSE(a.packets[2]);
}

TEST(Receive, NeverWaits) {
  Attached a;
  EXPECT_EQ(a.port->receive(a.packets), 0u);
  EXPECT_EQ(a.port->receive({}), 0u);
}

TEST(Receive, TakesNoMoreThanThereIsRoomForAndKeepsTheRest) {
  Attached a;
  for (unsigned i = 0; i < 40; ++i) {
    a.worker->deliver(frame_of(64, i));
  }
  EXPECT_EQ(a.port->receive(a.packets), 32u);
  EXPECT_EQ(a.port->receive(a.packets), 8u);
  EXPECT_EQ(copy(a.packets[7]), frame_of(64, 39));
}

TEST(Receive, MemoryOfAPacketCannotBeWritten_D4) {
  Attached a;
  a.worker->deliver(frame_of(60, 1));
  ASSERT_EQ(a.port->receive(a.packets), 1u);
  EXPECT_DEATH(const_cast<std::byte&>(a.packets[0].bytes()[0]) = std::byte{1}, "");
}

TEST(ReceiveFor, EndsWithNothingWhenTheTimeIsOver) {
  Attached a;
  EXPECT_EQ(a.port->receive_for(a.packets, kShort), 0u);
  EXPECT_EQ(a.port->receive_for(a.packets, std::chrono::nanoseconds(0)), 0u);
}

TEST(ReceiveFor, SleepsUntilAPacketComes) {
  Attached a;
  std::thread worker([&] {
    // Delivered only to a sleeper: the client has asked to be woken.
    wait_until([&] { return a.worker->client_sleeps(); });
    a.worker->deliver(frame_of(60, 1));
  });
  EXPECT_EQ(a.port->receive_for(a.packets, kLong), 1u);
  worker.join();
}

TEST(ReceiveFor, LosesNoWakeUp) {
  constexpr unsigned kRounds = 3000;
  Attached a;
  std::atomic<unsigned> seen{0};
  std::thread worker([&] {
    for (unsigned i = 0; i < kRounds; ++i) {
      a.worker->deliver(frame_of(60, i));
      wait_until([&] { return seen.load() == i + 1; });  // at once: catches the client on its way to sleep
      a.worker->take_back();
    }
  });
  unsigned received = 0;
  while (received < kRounds) {
    std::size_t count = a.port->receive_for(a.packets, kLong);
    ASSERT_NE(count, 0u) << "a wake-up was lost after " << received;
    Port::release(a.packets);
    a.port->flush();
    received += static_cast<unsigned>(count);
    seen.store(received);
  }
  worker.join();
}

TEST(ReceiveFor, ReturnsWhatComesWhileItSpinsWithoutASleep) {
  Attached a({}, {.spin_us = kForEverUs});
  a.worker->deliver(frame_of(60, 0));
  ASSERT_EQ(a.port->receive(a.packets), 1u);
  std::atomic<bool> done{false};
  std::thread worker([&] {
    while (!done) {
      // A page comes back when the client looks into its ring the first time: from then on it spins.
      if (!a.worker->take_back().empty()) {
        a.worker->deliver(frame_of(60, 1));
      }
    }
  });
  // What the first look already finds is no spin's merit.
  wait_until([&] {
    EXPECT_EQ(a.port->receive_for(a.packets, kLong), 1u);
    return a.port->counters().spins_hit > 0;
  });
  done = true;
  worker.join();
  EXPECT_EQ(a.port->counters().sleeps, 0u);
  EXPECT_EQ(a.worker->wakeups, 0u);
  EXPECT_EQ(a.port->info().spins_hit, a.port->counters().spins_hit);
}

TEST(ReceiveFor, SleepsWhenItHasSpunForNothing) {
  Attached a({}, {.spin_us = 1});
  std::thread worker([&] {
    wait_until([&] { return a.worker->client_sleeps(); });
    a.worker->deliver(frame_of(60, 1));
  });
  EXPECT_EQ(a.port->receive_for(a.packets, kLong), 1u);
  worker.join();
  EXPECT_EQ(a.port->counters().sleeps, 1u);
  EXPECT_EQ(a.port->info().sleeps, 1u);
  EXPECT_EQ(a.port->counters().spins_hit, 0u);
}

TEST(ReceiveFor, SpinsNoLongerThanItsTimeout) {
  Attached a({}, {.spin_us = kForEverUs});
  EXPECT_EQ(a.port->receive_for(a.packets, kShort), 0u);
  EXPECT_EQ(a.port->receive_for(a.packets, std::chrono::nanoseconds(0)), 0u);
}

TEST(ReceiveFor, StopsSpinningWhenTheDaemonIsGone) {
  Attached a({}, {.reattach = false, .spin_us = kForEverUs});
  a.worker->deliver(frame_of(60, 1));
  a.worker->hang_up();
  EXPECT_EQ(a.port->receive_for(a.packets, kLong), 1u);
  EXPECT_EQ(a.port->receive_for(a.packets, std::chrono::nanoseconds(-1)), 0u);
  EXPECT_FALSE(a.port->attached());
}

TEST(Split, LeavesEachPartItsSpin) {
  Attached a({.lanes = 2}, {.spin_us = kForEverUs});
  auto parts = std::move(*a.port).split();
  ASSERT_TRUE(parts);
  std::array<Packet, 4> packets;
  EXPECT_EQ((*parts)[1].receive_for(packets, kShort), 0u);
  EXPECT_EQ((*parts)[1].counters().sleeps, 0u);
}

TEST(Arm, CountsASleepOnlyWhenThereIsNothingToDo) {
  Attached a;
  a.worker->deliver(frame_of(60, 1));
  EXPECT_FALSE(a.port->arm());
  EXPECT_EQ(a.port->counters().sleeps, 0u);
  EXPECT_EQ(a.port->receive(a.packets), 1u);
  EXPECT_TRUE(a.port->arm());
  EXPECT_EQ(a.port->counters().sleeps, 1u);
}

TEST(Fd, BecomesReadableForAPacketOnAnyLaneAndIsQuietAfterReceiving) {
  Attached a({.lanes = 3});
  int outer = ::epoll_create1(EPOLL_CLOEXEC);
  epoll_event event{};
  event.events = EPOLLIN;
  ASSERT_EQ(::epoll_ctl(outer, EPOLL_CTL_ADD, a.port->fd(), &event), 0);
  for (std::uint32_t lane = 0; lane < 3; ++lane) {
    for (unsigned round = 0; round < 300; ++round) {
      ASSERT_TRUE(a.port->arm());
      ASSERT_EQ(::epoll_wait(outer, &event, 1, 0), 0) << "readable with nothing to read, round " << round;
      a.worker->deliver(frame_of(60, 1), lane);
      ASSERT_EQ(::epoll_wait(outer, &event, 1, 10'000), 1) << "not woken, round " << round;
      ASSERT_EQ(a.port->receive(a.packets), 1u);
      Port::release(a.packets);
      a.port->flush();
      ASSERT_EQ(a.worker->take_back(lane).size(), 1u);
    }
  }
  ::close(outer);
}

TEST(Fd, ArmSaysThatAPacketIsThereAlready) {
  Attached a;
  a.worker->deliver(frame_of(60, 1));
  EXPECT_FALSE(a.port->arm());
  EXPECT_EQ(a.port->receive(a.packets), 1u);
  EXPECT_TRUE(a.port->arm());
  a.port->disarm();
  a.worker->deliver(frame_of(60, 1));
  EXPECT_EQ(a.worker->wakeups, 0u) << "woken, though it does not sleep";
}

TEST(Packet, GoesBackWhenItGoesOutOfScope) {
  Attached a;
  std::uint32_t page = a.worker->deliver(frame_of(60, 1));
  {
    Packet packet;
    ASSERT_EQ(a.port->receive(std::span(&packet, 1)), 1u);
    EXPECT_EQ(a.port->info().pages_held, 1u);
  }
  a.port->flush();
  EXPECT_EQ(a.worker->take_back(), std::vector{page});
  EXPECT_EQ(a.port->info().pages_held, 0u);
}

TEST(Packet, GoesBackOnceHoweverItIsMoved) {
  Attached a;
  std::uint32_t page = a.worker->deliver(frame_of(60, 1));
  ASSERT_EQ(a.port->receive(a.packets), 1u);
  Packet first = std::move(a.packets[0]);
  Packet second;
  second = std::move(first);
  Packet& same = second;
  second = std::move(same);
  EXPECT_FALSE(first);
  EXPECT_EQ(copy(second), frame_of(60, 1));
  second.release();
  second.release();
  a.port->flush();
  EXPECT_EQ(a.worker->take_back(), std::vector{page});
}

TEST(Packet, ThatTheSpanStillHoldsGoesBackAtTheNextReceive) {
  Attached a;
  a.worker->deliver(frame_of(60, 1));
  a.worker->deliver(frame_of(60, 2));
  ASSERT_EQ(a.port->receive(a.packets), 2u);
  ASSERT_EQ(a.port->receive(a.packets), 0u);
  EXPECT_EQ(a.worker->take_back().size(), 2u);
}

TEST(Packet, ThatIsKeptStaysAsItWasWhileOthersComeAndGo) {
  Attached a;
  a.worker->deliver(frame_of(500, 99));
  ASSERT_EQ(a.port->receive(a.packets), 1u);
  Packet kept = std::move(a.packets[0]);
  for (unsigned round = 0; round < 1000; ++round) {
    a.worker->deliver(frame_of(500, round));
    ASSERT_EQ(a.port->receive(a.packets), 1u);
    ASSERT_EQ(copy(a.packets[0]), frame_of(500, round));
    a.worker->take_back();
  }
  EXPECT_EQ(copy(kept), frame_of(500, 99));
}

TEST(Packet, MayBeReleasedInAnyOrder) {
  Attached a;
  std::vector<std::uint32_t> pages;
  for (unsigned i = 0; i < 3; ++i) {
    pages.push_back(a.worker->deliver(frame_of(60, i)));
  }
  ASSERT_EQ(a.port->receive(a.packets), 3u);
  a.packets[1].release();
  a.packets[2].release();
  a.packets[0].release();
  a.port->flush();
  EXPECT_EQ(a.worker->take_back(), (std::vector{pages[1], pages[2], pages[0]}));
}

TEST(Packet, ReturnsAreGatheredButNeverMoreThanABurst) {
  Attached a({.rx_entries = 256});
  std::vector<Packet> packets(100);
  for (unsigned i = 0; i < 100; ++i) {
    a.worker->deliver(frame_of(60, i));
  }
  ASSERT_EQ(a.port->receive(packets), 100u);
  for (unsigned i = 0; i < 63; ++i) {
    packets[i].release();
  }
  EXPECT_EQ(a.worker->take_back().size(), 0u);
  packets[63].release();
  EXPECT_EQ(a.worker->take_back().size(), 64u);
}

TEST(Packet, OutlivesItsPort) {
  Attached a;
  a.worker->deliver(frame_of(60, 1));
  a.worker->deliver(frame_of(60, 2));
  ASSERT_EQ(a.port->receive(a.packets), 2u);
  a.port.reset();
  EXPECT_EQ(copy(a.packets[0]), frame_of(60, 1));
  a.packets[0].release();
  EXPECT_EQ(copy(a.packets[1]), frame_of(60, 2));
}

TEST(Packet, ReturnWakesASleepingDaemonAndOnlyASleepingOne) {
  Attached a;
  a.worker->deliver(frame_of(60, 1));
  ASSERT_EQ(a.port->receive(a.packets), 1u);
  Port::release(a.packets);
  a.port->flush();
  EXPECT_EQ(a.worker->kicks(), 0u);
  a.worker->take_back();

  a.worker->deliver(frame_of(60, 1));
  ASSERT_EQ(a.port->receive(a.packets), 1u);
  a.worker->sleep();
  Port::release(a.packets);
  a.port->flush();
  EXPECT_EQ(a.worker->kicks(), 1u);
  EXPECT_EQ(a.port->counters().wakeups, 1u);
}

TEST(Lanes, AreDrainedInTurns) {
  Attached a({.lanes = 4});
  for (unsigned i = 0; i < 40; ++i) {
    a.worker->deliver(frame_of(60, i), 0);  // one lane that is always busy
  }
  for (std::uint32_t lane = 1; lane < 4; ++lane) {
    a.worker->deliver(frame_of(100 + lane, 0), lane);
  }
  std::set<std::size_t> lengths;
  std::array<Packet, 4> burst;
  for (int call = 0; call < 4; ++call) {
    ASSERT_NE(a.port->receive(burst), 0u);
    for (const Packet& packet : burst) {
      lengths.insert(packet.bytes().size());
    }
  }
  EXPECT_EQ(lengths, (std::set<std::size_t>{60, 101, 102, 103})) << "a busy lane starves the others";
}

TEST(Lanes, APageGoesBackOnTheLaneItCameBy) {
  Attached a({.lanes = 2});
  std::uint32_t first = a.worker->deliver(frame_of(60, 1), 0);
  std::uint32_t second = a.worker->deliver(frame_of(60, 2), 1);
  ASSERT_EQ(a.port->receive(a.packets), 2u);
  Port::release(a.packets);
  a.port->flush();
  EXPECT_EQ(a.worker->take_back(0), std::vector{first});
  EXPECT_EQ(a.worker->take_back(1), std::vector{second});
}

TEST(Counters, AreSummedOverTheLanes) {
  Attached a({.lanes = 2});
  a.worker->stats(0).rx_packets = 3;
  a.worker->stats(1).rx_packets = 4;
  a.worker->stats(1).rx_dropped_page_limit = 5;
  EXPECT_EQ(a.port->counters().rx_packets, 7u);
  EXPECT_EQ(a.port->counters().rx_dropped_page_limit, 5u);
}

TEST(Malicious_Descriptor, OutOfRangeIsCountedAndSkipped) {
  Attached a;
  sluice_rx_entry entry{};
  entry.length = 60;
  for (std::uint32_t page : {256u, ~0u, 1u << 31}) {
    entry.page = page;
    a.worker->push(entry);
  }
  entry.page = 0;
  entry.offset = 2000;
  entry.length = 49;
  a.worker->push(entry);
  entry.offset = 65535;
  entry.length = 65535;
  a.worker->push(entry);
  entry.page = 255;
  entry.offset = 2000;
  entry.length = 48;  // the last byte of the arena
  a.worker->push(entry);
  a.worker->deliver(frame_of(60, 7));

  ASSERT_EQ(a.port->receive(a.packets), 2u);
  EXPECT_EQ(a.packets[0].bytes().size(), 48u);
  EXPECT_EQ(copy(a.packets[1]), frame_of(60, 7));
  EXPECT_EQ(a.port->counters().rx_bad_descriptors, 5u);
}

TEST(Malicious_Index, ThatIsImpossibleIsCountedAndGivesNothing) {
  Attached a;
  a.worker->raw_rx_producer().producer = 65;  // one more than the ring holds
  EXPECT_EQ(a.port->receive(a.packets), 0u);
  a.worker->raw_rx_producer().producer = ~0u;
  EXPECT_EQ(a.port->receive(a.packets), 0u);
  EXPECT_EQ(a.port->receive_for(a.packets, kShort), 0u);
  EXPECT_GE(a.port->counters().rx_bad_descriptors, 2u);
}

TEST(Malicious_Lending, OfMorePagesThanThereAreIsCounted) {
  Attached a({.pages = 64, .rx_entries = 64});
  sluice_rx_entry entry{};
  entry.length = 60;
  std::vector<Packet> packets(128);
  for (unsigned i = 0; i < 64; ++i) {
    a.worker->push(entry);  // the same page, again and again
  }
  ASSERT_EQ(a.port->receive(std::span(packets).first(64)), 64u);
  for (unsigned i = 0; i < 64; ++i) {
    a.worker->push(entry);
  }
  ASSERT_EQ(a.port->receive(std::span(packets).last(64)), 64u);
  Port::release(packets);  // 128 returns into a ring of 64
  EXPECT_EQ(a.port->counters().rx_bad_descriptors, 64u);
}

}  // namespace
}  // namespace sluice
