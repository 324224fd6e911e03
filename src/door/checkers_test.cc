// Who waits for whom when descriptors are checked. The checkers' processes are played by hand; their channels
// and what goes through them are real.
#include "door/checkers.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/fd_passing.h"
#include "door/checker.h"

namespace sluice {
namespace {

constexpr std::uint64_t kDeadlineNs = 20'000'000'000;

std::pair<UniqueFd, UniqueFd> channel() {
  int ends[2] = {-1, -1};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// A checker that does each step when the test says so.
class HandChecker {
 public:
  explicit HandChecker(UniqueFd end) : end_(std::move(end)) {}
  bool take_work() {
    std::byte byte{};
    iovec part{&byte, 1};
    alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int))];
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    if (::recvmsg(end_.get(), &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1) {
      return false;
    }
    from_.reset(number_of(received_fds(header).at(0)));
    return true;
  }
  void answer() { (void)check_next(from_.get(), end_.get()); }
  void take_more() { EXPECT_EQ(::send(end_.get(), "", 1, MSG_NOSIGNAL), 1); }
  void die() { end_.reset(); }

 private:
  UniqueFd end_, from_;
};

class HandDoors final : public Doors {
 public:
  Result<Door> open(DoorKind kind, const std::string& who, UniqueFd peer) override {
    EXPECT_EQ(kind, DoorKind::kChecker);
    EXPECT_FALSE(peer);
    auto ends = channel();
    checkers.push_back(std::make_unique<HandChecker>(std::move(ends.second)));
    return Door{
        .id = static_cast<std::uint32_t>(checkers.size()), .channel = std::move(ends.first), .who = who};
  }
  void end(Door door) override { ended[door.id] = door.who; }
  void bury(UniqueFd) override {}
  CheckId check(CheckRequest) override { return 0; }
  void cancel_check(CheckId) override {}

  std::vector<std::unique_ptr<HandChecker>> checkers;  // the first one has id 1
  std::map<std::uint32_t, std::string> ended;
};

class CheckersTest : public ::testing::Test {
 protected:
  // A door's channel on which a datagram with descriptors waits.
  struct Asked {
    UniqueFd daemon, door;
    std::optional<Checked> checked;
    int out_of_memory = 0;
    CheckId id = 0;
  };
  std::unique_ptr<Asked> ask(const std::string& who, std::vector<int> fds) {
    auto ends = channel();
    auto asked = std::make_unique<Asked>();
    asked->daemon = std::move(ends.first);
    asked->door = std::move(ends.second);
    const std::array<std::byte, 3> said{std::byte{1}, std::byte{2}, std::byte{3}};
    EXPECT_EQ(send_with_fds(asked->door.get(), said, fds, 0), 3);
    asked->id =
        checkers.check({.who = who,
                        .channel = asked->daemon.get(),
                        .done = [to = asked.get()](Checked checked) { to->checked = std::move(checked); },
                        .no_memory = [to = asked.get()] { ++to->out_of_memory; }});
    EXPECT_FALSE(asked->checked.has_value()) << "answered before the loop had a turn";
    return asked;
  }
  template <typename Condition>
  bool turn_until(const Condition& condition) {
    for (const std::uint64_t begin = now_ns(); !condition(); loop->turn(10)) {
      if (now_ns() - begin > kDeadlineNs) {
        return false;
      }
    }
    return true;
  }
  HandChecker& checker(std::size_t number) { return *doors.checkers.at(number - 1); }
  bool works(std::size_t number) {
    return turn_until([&] { return doors.checkers.size() >= number && checker(number).take_work(); });
  }

  HandDoors doors;
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create().value());
  Checkers checkers{doors, *loop, {.soon_ns = 10'000'000, .ends_ns = 300'000'000, .idle_ns = 100'000'000}};
  const UniqueFd event{::eventfd(0, EFD_CLOEXEC)}, null{::open("/dev/null", O_RDWR | O_CLOEXEC)};
};

TEST_F(CheckersTest, OneTakesWhatComesInTurnAndEndsWhenNothingDoes) {
  for (int i = 0; i < 3; ++i) {
    auto asked = ask("vm1", {event.get(), event.get()});
    ASSERT_TRUE(works(1));
    checker(1).answer();
    ASSERT_TRUE(turn_until([&] { return asked->checked.has_value(); }));
    EXPECT_EQ(asked->checked->what, Checked::What::kPassed);
    EXPECT_EQ(asked->checked->bytes.size(), 3u);
    ASSERT_EQ(asked->checked->fds.size(), 2u);
    EXPECT_TRUE(asked->checked->fds[0].is_eventfd());
    checker(1).take_more();
  }
  EXPECT_EQ(doors.checkers.size(), 1u);
  EXPECT_TRUE(turn_until([&] { return doors.ended.contains(1); }));
  EXPECT_NE(doors.ended[1], "vm1");
}

TEST_F(CheckersTest, ACheckThatTakesItsTimeDelaysNobodyElses) {
  auto slow = ask("vm1", {event.get()}), other = ask("vm2", {event.get()});
  ASSERT_TRUE(works(1));
  ASSERT_TRUE(works(2)) << "another takes over";
  checker(2).answer();
  EXPECT_TRUE(turn_until([&] { return other->checked.has_value(); }));
  EXPECT_FALSE(slow->checked.has_value());
  checker(1).answer();
  EXPECT_TRUE(turn_until([&] { return slow->checked.has_value(); }));
  EXPECT_EQ(slow->checked->what, Checked::What::kPassed);
  checker(1).take_more();
  EXPECT_TRUE(turn_until([&] { return doors.ended.contains(1); })) << "two are not needed";
  EXPECT_NE(doors.ended[1], "vm1");
}

TEST_F(CheckersTest, Malicious_OneThatDoesNotEndIsLeftBehindAsADoorOfWhoItWorkedFor) {
  auto stuck = ask("vm1", {event.get()});
  ASSERT_TRUE(works(1));
  EXPECT_TRUE(turn_until([&] { return stuck->checked.has_value(); }));
  EXPECT_EQ(stuck->checked->what, Checked::What::kRefused);
  EXPECT_EQ(doors.ended[1], "vm1");
  // The same after its answer, while it closes what it has passed on.
  auto closes = ask("vm2", {event.get()});
  ASSERT_TRUE(works(2));
  checker(2).answer();
  EXPECT_TRUE(turn_until([&] { return closes->checked.has_value(); }));
  EXPECT_EQ(closes->checked->what, Checked::What::kPassed);
  EXPECT_TRUE(turn_until([&] { return doors.ended.contains(2); }));
  EXPECT_EQ(doors.ended[2], "vm2");
}

TEST_F(CheckersTest, Malicious_WhatIsOfNoKnownKindIsRefusedAndEndsWithItsChecker) {
  auto refused = ask("vm1", {event.get(), null.get()}), other = ask("vm2", {event.get()});
  ASSERT_TRUE(works(1));
  checker(1).answer();
  EXPECT_TRUE(turn_until([&] { return refused->checked.has_value(); }));
  EXPECT_EQ(refused->checked->what, Checked::What::kRefused);
  EXPECT_TRUE(refused->checked->fds.empty() && refused->checked->bytes.empty());
  EXPECT_EQ(doors.ended[1], "vm1");
  ASSERT_TRUE(works(2));
  checker(2).answer();
  EXPECT_TRUE(turn_until([&] { return other->checked.has_value(); }));
  EXPECT_EQ(other->checked->what, Checked::What::kPassed);
}

TEST_F(CheckersTest, Malicious_HoweverManyAreHeldUpTheNextPortGetsOne) {
  std::vector<std::unique_ptr<Asked>> all;
  for (std::size_t i = 1; i <= 40; ++i) {
    all.push_back(ask("vm" + std::to_string(i), {event.get()}));
    ASSERT_TRUE(works(i));
  }
  auto other = ask("other", {event.get()});
  ASSERT_TRUE(works(41));
  checker(41).answer();
  EXPECT_TRUE(turn_until([&] { return other->checked.has_value(); }));
  EXPECT_EQ(other->checked->what, Checked::What::kPassed);
}

// Who comes and goes would have one more of them each time.
TEST_F(CheckersTest, Malicious_OneThatNobodyWaitsForEndsAsADoorOfWhoItWorkedFor) {
  auto gone = ask("vm1", {event.get()}), waits = ask("vm1", {event.get()}), last = ask("vm2", {event.get()});
  ASSERT_TRUE(works(1));
  checkers.cancel(gone->id);
  checkers.cancel(waits->id);
  EXPECT_EQ(doors.ended[1], "vm1");
  ASSERT_TRUE(works(2));
  checker(2).answer();
  EXPECT_TRUE(turn_until([&] { return last->checked.has_value(); }));
  EXPECT_EQ(last->checked->what, Checked::What::kPassed);
  EXPECT_FALSE(gone->checked || waits->checked);
}

TEST_F(CheckersTest, OneThatDiesIsReplaced) {
  auto lost = ask("vm1", {event.get()});
  ASSERT_TRUE(works(1));
  checker(1).die();
  EXPECT_TRUE(turn_until([&] { return lost->checked.has_value(); }));
  EXPECT_EQ(lost->checked->what, Checked::What::kLost);
  EXPECT_NE(doors.ended[1], "vm1");
  auto next = ask("vm1", {event.get()});
  ASSERT_TRUE(works(2));
  checker(2).answer();
  EXPECT_TRUE(turn_until([&] { return next->checked.has_value(); }));
}

TEST_F(CheckersTest, WhoHasNoMemoryForTheAnswerIsTold) {
  auto ends = channel();
  ASSERT_EQ(send_with_fds(ends.second.get(), std::array<std::byte, 1>{}, std::array{event.get()}, 0), 1);
  int told = 0;
  checkers.check({.who = "vm1",
                  .channel = ends.first.get(),
                  .done = [](Checked) { std::rethrow_exception(std::make_exception_ptr(std::bad_alloc())); },
                  .no_memory = [&told] { ++told; }});
  ASSERT_TRUE(works(1));
  checker(1).answer();
  EXPECT_TRUE(turn_until([&] { return told == 1; }));
  EXPECT_EQ(loop->out_of_memory(), 1u);
}

}  // namespace
}  // namespace sluice
