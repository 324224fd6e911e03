// What a front-end can do with messages that make workers stand still, and with workers that do not come: P.
#include <sys/eventfd.h>

#include <utility>

#include "port/guest/vhost_user/vhost_fixture.h"

namespace sluice::test {
namespace {

class Malicious_Pauses : public VhostTest {
 protected:
  // Messages of the port's own front-end until `wanted` of them are answered, each of which needs a pause.
  void flood(FrontEnd& front, std::uint32_t messages) {
    for (std::uint32_t i = 0; i < messages; ++i) {
      ASSERT_EQ(front.tell(VHOST_USER_SET_VRING_ENABLE, vhost_user_vring_state{1, i % 2}), 0u) << i;
    }
  }
};

TEST_F(Malicious_Pauses, P1_AFloodOfMessagesCausesNoMorePausesThanItsBudgetAndOthersAreServed) {
  start();
  FrontEnd front = connect();
  std::optional<GoodGuest> guest(std::in_place);
  guest->bring_up(front);
  ASSERT_TRUE(front.barrier());
  const std::uint64_t begin = now_ns();
  const std::uint64_t before = counter("pauses");
  flood(front, kPauseBurst + 50);
  const std::uint64_t passed = now_ns() - begin;
  EXPECT_LE(counter("pauses") - before, kPauseBurst + passed * kPausesPerSecond / 1'000'000'000 + 2);
  EXPECT_GT(counter("pauses_deferred"), 0u);
  // With nothing left in the budget, the neighbour's messages do not wait for it.
  const std::uint64_t deferred = counter("pauses_deferred");
  front.send(VHOST_USER_SET_VRING_ENABLE, vhost_user_vring_state{1, 0});
  for (std::uint32_t i = 0; i < 20; ++i) {
    ASSERT_EQ(bystander_front().tell(VHOST_USER_SET_VRING_ENABLE, vhost_user_vring_state{1, i % 2}), 0u);
  }
  EXPECT_LE(counter("pauses_deferred") - deferred, 20u);
  ASSERT_EQ(bystander_front().tell(VHOST_USER_SET_VRING_ENABLE, vhost_user_vring_state{1, 1}), 0u);
  front.close();
  guest.reset();  // its memory is seen in our own mappings
  expect_unharmed();
}

TEST_F(Malicious_Pauses, P2_MessagesOfOneTurnShareAPause) {
  start();
  FrontEnd front = connect();
  std::optional<GoodGuest> guest(std::in_place);
  guest->bring_up(front);
  ASSERT_TRUE(front.barrier());
  const std::uint64_t before = counter("pauses");
  std::vector<std::byte> many;
  for (std::uint32_t i = 0; i < kMessagesPerTurn - 1; ++i) {
    const vhost_user_vring_state state{1, i % 2};
    const auto bytes = FrontEnd::bytes_of(VHOST_USER_SET_VRING_ENABLE, std::as_bytes(std::span(&state, 1)));
    many.insert(many.end(), bytes.begin(), bytes.end());
  }
  const std::uint64_t said = counter("messages");
  std::uint64_t heard = said, turns = 0;  // those that brought messages: the door may need several
  ASSERT_TRUE(front.send_bytes(many));
  EXPECT_TRUE(turn_until([&] {
    turns += counter("messages") != std::exchange(heard, counter("messages")) ? 1 : 0;
    return heard == said + kMessagesPerTurn - 1;
  }));
  EXPECT_LE(counter("pauses") - before, turns);
  front.enable(1, true);
  front.close();
  guest.reset();  // its memory is seen in our own mappings
  expect_unharmed();
}

TEST_F(Malicious_Pauses, P3_OnlyTheWorkerOfATransmitRingStandsStill) {
  options.workers = {WorkerId{0}, WorkerId{1}, WorkerId{2}};
  port = std::move(GuestPort::create(options, *loop, host.services(), doors).value());
  FrontEnd front = connect();
  GoodGuest guest;
  guest.bring_up(front);
  ASSERT_TRUE(front.barrier());
  const std::uint64_t pauses = host.quiesces, paused = host.paused;
  for (std::uint32_t on : {0u, 1u, 0u, 1u}) {
    ASSERT_EQ(front.tell(VHOST_USER_SET_VRING_ENABLE, vhost_user_vring_state{1, on}), 0u);
  }
  EXPECT_EQ(host.quiesces - pauses, 4u);
  EXPECT_EQ(host.paused - paused, 4u) << "one worker each time";
  ASSERT_EQ(front.tell(VHOST_USER_SET_VRING_ENABLE, vhost_user_vring_state{0, 0}), 0u);
  EXPECT_EQ(host.paused - paused, 7u) << "a receive ring is filled by all";
}

TEST_F(Malicious_Pauses, P4_WhileAWorkerDoesNotComeMessagesWaitAndNobodyIsHeldUp) {
  start();
  FrontEnd front = connect();
  std::optional<GoodGuest> guest(std::in_place);
  guest->bring_up(front);
  ASSERT_TRUE(front.barrier());
  host.late = true;
  const vhost_user_vring_state state{1, 0};
  ASSERT_TRUE(front.send(VHOST_USER_GET_VRING_BASE, state));
  EXPECT_TRUE(turn_until([&] { return counter("pauses_late") >= 2; }));
  EXPECT_FALSE(front.has_reply()) << "the ring still runs: no answer says that it has stopped";
  EXPECT_TRUE(port->vhost().stuck);
  EXPECT_TRUE(bystander_front().barrier()) << "what needs no pause is answered";
  host.late = false;
  EXPECT_TRUE(turn_until([&] { return front.has_reply(); }));
  EXPECT_FALSE(port->vhost().stuck);
  front.close();
  guest.reset();  // its memory is seen in our own mappings
  expect_unharmed();
}

TEST_F(Malicious_Pauses, P5_AFrontEndThatGoesWhileAWorkerDoesNotComeKeepsItsMemoryMappedUntilItHasCome) {
  start();
  FrontEnd front = connect();
  std::optional<GoodGuest> guest(std::in_place);
  guest->bring_up(front);
  ASSERT_TRUE(front.barrier());
  guest.reset();
  const std::size_t mapped = guest_mappings();
  host.late = true;
  front.close();
  EXPECT_TRUE(turn_until([&] { return counter("pauses_late") >= 2; }));
  EXPECT_EQ(guest_mappings(), mapped) << "D7";
  EXPECT_FALSE(port->vhost().connected);
  FrontEnd next = connect();
  EXPECT_TRUE(next.wait_closed()) << "no other session before this one's memory has gone";
  next.close();
  host.late = false;
  EXPECT_TRUE(turn_until([&] { return counter("disconnects") == 1; }));
  expect_unharmed();
}

}  // namespace
}  // namespace sluice::test
