// libsluice against the daemon's own AppPort: both sides of abi/app.h as they are shipped.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <optional>
#include <thread>

#include "real_daemon.h"
#include "sluice/sluice.hpp"
#include "test_daemon.h"

namespace sluice {
namespace {

using testing::Bytes;
using testing::frame_of;
using testing::RealDaemon;
using testing::TestFolder;
using testing::wait_until;

constexpr std::chrono::seconds kLong{10};

Port attach(const TestFolder& folder) {
  auto port = Port::attach(folder.socket(), {.client_name = "test"});
  EXPECT_TRUE(port) << port.error().message;
  return std::move(*port);
}

Bytes copy(const Packet& packet) {
  return {packet.bytes().begin(), packet.bytes().end()};
}

// A frame that the port is allowed to send.
Bytes frame_from(const Port& port, std::size_t bytes, unsigned seed) {
  Bytes frame = frame_of(bytes, seed);
  std::memcpy(frame.data() + 6, port.info().source_mac, 6);
  return frame;
}

TEST(RealDaemon, ReceivesWhatArrivesAndReturnsEveryPage) {
  TestFolder folder;
  RealDaemon daemon(folder.socket(), {.workers = 2});
  Port port = attach(folder);
  EXPECT_EQ(port.info().page_limit, 512u);
  EXPECT_EQ(port.info().daemon_pid, ::getpid());
  std::array<Packet, 64> packets;
  for (unsigned round = 0; round < 200; ++round) {
    Bytes frame = frame_of(60 + round, round);
    ASSERT_TRUE(daemon.deliver(frame, 20, round % 2));
    std::size_t received = 0;
    while (received < 20) {
      std::size_t count = port.receive_for(packets, kLong);
      ASSERT_NE(count, 0u);
      for (std::size_t i = 0; i < count; ++i) {
        ASSERT_EQ(copy(packets[i]), frame);
      }
      received += count;
    }
  }
  EXPECT_EQ(port.counters().rx_packets, 4000u);
  Port::release(packets);
  port.flush();
  wait_until([&] { return daemon.pages_inflight() == 0; });
  for (auto& [name, value] : daemon.counters()) {
    if (name.starts_with("fault_")) {
      EXPECT_EQ(value, 0u) << name;
    }
  }
}

TEST(RealDaemon, SendsAndReceivesItsOwnFramesBackWithBothSidesSleeping) {
  TestFolder folder;
  RealDaemon daemon(folder.socket(), {});
  Port port = attach(folder);
  std::array<Packet, 64> packets;
  for (unsigned round = 0; round < 2000; ++round) {
    Bytes frame = frame_from(port, 60 + round % 1400, round);
    ASSERT_TRUE(port.send(frame));
    ASSERT_EQ(port.receive_for(packets, kLong), 1u) << "a wake-up was lost in round " << round;
    ASSERT_EQ(copy(packets[0]), frame);
  }
  // Published at the end of the turn in which the frame came back.
  wait_until([&] { return port.counters().tx_packets >= 2000; });
  EXPECT_EQ(port.counters().tx_packets, 2000u);
  EXPECT_EQ(port.counters().daemon_faults, 0u);
}

TEST(RealDaemon, RefusesAnotherSourceAddress) {
  TestFolder folder;
  RealDaemon daemon(folder.socket(), {});
  Port port = attach(folder);
  ASSERT_TRUE(port.send(frame_of(60, 1)));
  wait_until([&] { return port.counters().tx_dropped == 1; });
  EXPECT_EQ(daemon.counter("drop_tx_source_mac"), 1u);
}

TEST(RealDaemon, DropsWhenAllPagesAreHeldAndGoesOnWhenTheyReturn) {
  TestFolder folder;
  RealDaemon daemon(folder.socket(), {.pages = 64});
  Port port = attach(folder);
  std::vector<Packet> packets(64);
  std::size_t held = 0;
  while (held < 64) {
    ASSERT_TRUE(daemon.deliver(frame_of(60, 1), 32));
    held += port.receive(std::span(packets).subspan(held));
  }
  EXPECT_EQ(port.info().pages_held, 64u);
  daemon.deliver(frame_of(60, 1), 5);
  EXPECT_EQ(port.counters().rx_dropped_page_limit, 5u);
  Port::release(packets);
  port.flush();
  wait_until([&] { return daemon.pages_inflight() == 0; });
  daemon.deliver(frame_of(60, 2), 5);
  EXPECT_EQ(port.receive_for(packets, kLong), 5u);
}

TEST(RealDaemon, SaysWhoIsAttachedAlready) {
  TestFolder folder;
  RealDaemon daemon(folder.socket(), {});
  Port first = attach(folder);
  auto second = Port::attach(folder.socket());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kBusy);
  EXPECT_NE(second.error().message.find(std::to_string(::getpid())), std::string::npos)
      << second.error().message;
}

TEST(RealDaemon, SaysThatAUserMayNot) {
  if (::getuid() != 0) {
    GTEST_SKIP() << "only root can become another user";
  }
  TestFolder folder;
  ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
  RealDaemon daemon(folder.socket(), {});  // for the user it runs as, and root
  const pid_t child = ::fork();
  if (child == 0) {
    constexpr uid_t kNobody = 65534;
    if (::setuid(kNobody) != 0) {
      ::_exit(100);
    }
    auto port = Port::attach(folder.socket());
    ::_exit(port ? 0 : -static_cast<int>(port.error().code));
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), -static_cast<int>(ErrorCode::kDenied));
}

TEST(RealDaemon, SeesTheDetachAndTheNextOneAttaches) {
  TestFolder folder;
  RealDaemon daemon(folder.socket(), {});
  std::optional<Port> port = attach(folder);
  EXPECT_EQ(daemon.attached_pid(), ::getpid());
  daemon.deliver(frame_of(60, 1), 3);
  std::array<Packet, 8> packets;
  ASSERT_EQ(port->receive_for(packets, kLong), 3u);
  port.reset();
  wait_until([&] { return daemon.attached_pid() == 0; });
  EXPECT_EQ(copy(packets[2]), frame_of(60, 1)) << "held beyond the session";
  Port next = attach(folder);
  EXPECT_EQ(daemon.attached_pid(), ::getpid());
}

TEST(Crash_RealDaemon, TrafficGoesOnAfterItComesBackAndHeldPacketsStay) {
  TestFolder folder;
  auto daemon = std::make_unique<RealDaemon>(folder.socket(), testing::RealDaemonOptions{.workers = 2});
  Port port = attach(folder);
  std::vector<Packet> kept;
  std::array<Packet, 8> packets;
  for (unsigned round = 0; round < 5; ++round) {
    ASSERT_TRUE(daemon->deliver(frame_of(100, round), 1));
    ASSERT_EQ(port.receive_for(packets, kLong), 1u);
    kept.push_back(std::move(packets[0]));
    if (round % 2 == 0) {
      daemon->cut_off();
    } else {
      daemon.reset();
      daemon =
          std::make_unique<RealDaemon>(folder.socket(), testing::RealDaemonOptions{.workers = 1 + round});
    }
    wait_until([&] {
      return port.receive_for(packets, std::chrono::milliseconds(5)) == 0 && port.attached() &&
             port.info().attaches == round + 2;
    });
  }
  for (unsigned round = 0; round < 5; ++round) {
    EXPECT_EQ(copy(kept[round]), frame_of(100, round));
  }
}

TEST(RealDaemon, ServesAThreadForEachLane) {
  constexpr std::size_t kThreads = 3, kFrames = 3000;
  TestFolder folder;
  RealDaemon daemon(folder.socket(), {.workers = kThreads});
  auto parts = attach(folder).split();
  ASSERT_TRUE(parts);
  std::vector<std::thread> threads;
  for (Port& part : *parts) {
    threads.emplace_back([&part] {
      std::array<Packet, 32> packets;
      std::size_t sent = 0, received = 0;
      Bytes frame = frame_from(part, 200, 7);
      while (received < kFrames) {
        while (sent < kFrames && sent - received < 32 && part.send(frame)) {
          ++sent;
        }
        std::size_t count = part.receive_for(packets, kLong);
        ASSERT_NE(count, 0u) << "sent " << sent << " received " << received;
        received += count;
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
}

}  // namespace
}  // namespace sluice
