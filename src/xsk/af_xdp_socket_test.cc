// AfXdpSocket over a kernel that the test plays. Below root; and linked with nothing but the library itself,
// as in libsluice.
#include "xsk/af_xdp_socket.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "xsk/fake_kernel.h"

namespace sluice {
namespace {

constexpr XskRings kRings{.rx = 64, .tx = 128, .fill = 64, .completion = 128};

AfXdpSocket ready(test::FakeKernel& kernel) {
  AfXdpSocket socket = AfXdpSocket::create(kernel).value();
  EXPECT_TRUE(socket.make_rings(kRings));
  return socket;
}

void write(AfXdpSocket& socket, std::uint32_t count) {
  ASSERT_EQ(socket.tx.reserve(count), count);
  for (std::uint32_t i = 0; i < count; ++i) {
    socket.tx.slot(i) = {.addr = i, .len = 60, .options = 0};
  }
  socket.tx.submit(count);
}

TEST(AfXdpSocket, HasTheRingsThatWereAskedForAndNoOther) {
  test::FakeKernel kernel;
  AfXdpSocket socket = ready(kernel);
  EXPECT_EQ(kernel.entries[XDP_RX_RING], 64u);
  EXPECT_EQ(kernel.entries[XDP_TX_RING], 128u);
  EXPECT_EQ(kernel.mapped, 4);
  test::FakeKernel other;
  AfXdpSocket receiver = AfXdpSocket::create(other).value();
  ASSERT_TRUE(receiver.make_rings({.rx = 64, .fill = 64}));
  EXPECT_FALSE(other.entries.contains(XDP_TX_RING));
  EXPECT_EQ(other.mapped, 2);
}

TEST(AfXdpSocket, AFaultNamesTheStepTheRingAndTheErrno) {
  test::FakeKernel kernel;
  kernel.open_error = EPERM;
  auto none = AfXdpSocket::create(kernel);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().step, XskFault::Step::kSocket);
  EXPECT_EQ(none.error().os_errno, EPERM);
  kernel.open_error = 0;
  AfXdpSocket socket = AfXdpSocket::create(kernel).value();
  kernel.failing_option = XDP_UMEM_REG;
  EXPECT_EQ(socket.register_memory({}).error().step, XskFault::Step::kRegister);
  kernel.failing_option = XDP_TX_RING;
  auto made = socket.make_rings(kRings);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().step, XskFault::Step::kRing);
  EXPECT_EQ(made.error().ring, XDP_TX_RING);
  EXPECT_EQ(made.error().entries, 128u);
  kernel.failing_option = -1;
  kernel.failing_map = XDP_PGOFF_RX_RING;
  made = socket.make_rings(kRings);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().step, XskFault::Step::kMap);
  EXPECT_EQ(made.error().ring, XDP_RX_RING);
}

TEST(AfXdpSocket, ItsEndUnmapsEveryRingAndClosesOnce) {
  test::FakeKernel kernel;
  {
    AfXdpSocket first = ready(kernel);
    AfXdpSocket second = std::move(first);
    EXPECT_FALSE(first);  // NOLINT: moved from, and says so
    EXPECT_EQ(kernel.mapped, 4);
    EXPECT_TRUE(second);
  }
  EXPECT_EQ(kernel.mapped, 0);
  EXPECT_EQ(kernel.discarded, 1);
}

TEST(AfXdpSocket, AReleasedOneIsTheCallersToClose) {
  test::FakeKernel kernel;
  AfXdpSocket socket = ready(kernel);
  const int fd = socket.fd();
  EXPECT_EQ(socket.release(), fd);
  EXPECT_EQ(kernel.mapped, 0);
  socket.close();
  EXPECT_EQ(kernel.discarded, 0);
  EXPECT_FALSE(socket.statistics());
}

TEST(AfXdpSocket, BuffersAndFramesGoRoundTheRings) {
  test::FakeKernel kernel;
  AfXdpSocket socket = ready(kernel);
  for (std::uint32_t round = 0; round < 10; ++round) {  // more than the rings hold
    ASSERT_EQ(socket.fill.reserve(40), 40u);
    for (std::uint32_t i = 0; i < 40; ++i) {
      socket.fill.slot(i) = (round * 40 + i) * 2048;
    }
    socket.fill.submit(40);
    for (std::uint64_t address = 0; kernel.take_filled(address);) {
      kernel.give_frame({.addr = address + 260, .len = 60, .options = 0});
    }
    ASSERT_EQ(socket.rx.peek(64), 40u);
    for (std::uint32_t i = 0; i < 40; ++i) {
      EXPECT_EQ(socket.rx.entry(i).addr, (round * 40 + i) * 2048 + 260);
    }
    socket.rx.release(40);
    EXPECT_EQ(socket.rx.peek(64), 0u);
  }
}

TEST(AfXdpSocket, KicksOnlyWhenTheKernelAsksAndUntilAllIsTaken) {
  test::FakeKernel kernel;
  AfXdpSocket socket = ready(kernel);
  write(socket, 100);
  AfXdpSocket::Kick kick = socket.kick_tx();
  EXPECT_EQ(kick.calls, 0u);
  EXPECT_EQ(kick.untaken, 100u);
  kernel.want_wakeup(XDP_PGOFF_TX_RING, true);
  kick = socket.kick_tx();
  EXPECT_EQ(kick.calls, 4u);  // 32 at a time
  EXPECT_EQ(kick.untaken, 0u);
  EXPECT_EQ(kernel.sent.size(), 100u);
  EXPECT_EQ(socket.kick_tx().calls, 0u);
}

TEST(AfXdpSocket, InZeroCopyModeOneKickIsEnough) {
  test::FakeKernel kernel;
  kernel.zero_copy = true;
  AfXdpSocket socket = ready(kernel);
  socket.note_bound();
  EXPECT_TRUE(socket.zero_copy());
  kernel.want_wakeup(XDP_PGOFF_TX_RING, true);
  kernel.most_per_send = 10;
  write(socket, 100);
  const AfXdpSocket::Kick kick = socket.kick_tx();
  EXPECT_EQ(kick.calls, 1u);
  EXPECT_EQ(kick.untaken, 90u);
}

TEST(AfXdpSocket, ANicThatIsDownIsKickedOnceAndOneThatIsFullIsNoFault) {
  test::FakeKernel kernel;
  AfXdpSocket socket = ready(kernel);
  kernel.want_wakeup(XDP_PGOFF_TX_RING, true);
  write(socket, 100);
  kernel.send_error = ENETDOWN;
  AfXdpSocket::Kick kick = socket.kick_tx();
  EXPECT_EQ(kick.calls, 1u);
  EXPECT_TRUE(kick.refused);
  EXPECT_EQ(kick.untaken, 100u);
  for (int passing : {EAGAIN, EBUSY, ENOBUFS}) {
    kernel.send_error = passing;
    kick = socket.kick_tx();
    EXPECT_FALSE(kick.refused) << passing;
    EXPECT_EQ(kick.calls, 1u) << "nothing moved, so once";
  }
}

TEST(AfXdpSocket, TellsTheKernelsCounters) {
  test::FakeKernel kernel;
  AfXdpSocket socket = ready(kernel);
  EXPECT_EQ(socket.statistics().value().rx_ring_full, 7u);
  socket.kick_rx();
  EXPECT_EQ(kernel.receives, 1);
}

}  // namespace
}  // namespace sluice
