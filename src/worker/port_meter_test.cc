#include "worker/port_meter.h"

#include <gtest/gtest.h>
#include <time.h>

#include <atomic>

#include "port/fake/fake.h"
#include "port/fake/lane_conformance.h"
#include "worker/active_lanes.h"
#include "worker/worker.h"

namespace sluice {
namespace {

void burn(std::uint64_t ns) {
  const std::uint64_t begin = now_ns();
  while (now_ns() - begin < ns) {
  }
}

constexpr PortId kSlow{3}, kOther{4};

// A port whose poll() blocks, burns CPU, or stands until it is let go.
class SlowLane final : public Lane {
 public:
  SlowLane() : Lane(Capabilities{}) {}
  void copy_in(const BurstInfo&, std::span<Packet> packets) override {
    copied.add(packets.size());
    if (copy_blocks) {
      block();
    }
  }
  std::uint32_t burst(std::span<Packet>, BurstInfo&) override { return 0; }
  void done(std::span<const Packet>) override {}
  std::uint32_t poll() override {
    polls.add(1);
    if (blocks) {
      block();
    }
    while (stands) {
      standing = true;
    }
    return kBurst;
  }
  int wake_fd() const override { return -1; }
  bool prepare_sleep() override { return true; }
  void woken() override {}

  static void block() {
    const timespec time{.tv_sec = 0, .tv_nsec = 1'000'000};
    ::clock_nanosleep(CLOCK_MONOTONIC, 0, &time, nullptr);
  }

  std::atomic<bool> blocks{false}, copy_blocks{false}, stands{false}, standing{false};
  Counter polls, copied;
};

class PortMeterTest : public ::testing::Test {
 protected:
  PortMeterTest() {
    worker_->call([this](Worker::Tables& tables) {
      tables.lanes = {{kSlow, &slow_}, {kOther, &other_}};
      tables.by_port[raw(kSlow)] = &slow_;
      tables.by_port[raw(kOther)] = &other_;
    });
  }
  ~PortMeterTest() override {
    slow_.blocks = slow_.copy_blocks = slow_.stands = false;
    worker_->call([](Worker::Tables& tables) { tables = {}; });
  }
  SlowLane slow_;
  FakeLane other_{nullptr, {}};
  std::unique_ptr<Worker> worker_ = Worker::start({}).value();
};

TEST_F(PortMeterTest, Malicious_APortWhosePollBlocksIsChargedAndItsNeighbourIsNot) {
  slow_.blocks = true;
  // Calls may be longer than they are meant to be, so that few of them cost as much.
  EXPECT_TRUE(wait_until([this] {
    return worker_->meter().charged_us(kSlow) > 5'000 && worker_->meter().slow_calls(kSlow) > 5;
  }));
  EXPECT_GT(worker_->meter().busy_us(kSlow), worker_->meter().charged_us(kSlow));
  EXPECT_EQ(worker_->meter().charged_us(kOther), 0u);
}

TEST_F(PortMeterTest, APortThatIsQuickIsChargedNothing) {
  EXPECT_TRUE(wait_until([this] { return slow_.polls.value() > 10'000; }));
  EXPECT_EQ(worker_->meter().charged_us(kSlow), 0u);
}

TEST_F(PortMeterTest, Malicious_APortThatHasUsedUpItsBudgetIsNotServedBeforeTheNextWindow) {
  constexpr std::uint64_t kBudgetUs = 5'000;
  worker_->begin_window(kSlow, kBudgetUs);
  slow_.blocks = true;
  EXPECT_TRUE(wait_until([this] { return worker_->meter().skipped(kSlow) > 0; }));
  slow_.blocks = false;
  const std::uint64_t charged = worker_->meter().charged_us(kSlow);
  EXPECT_GT(charged, kBudgetUs);
  const std::uint64_t polls = slow_.polls.value();
  const Bytes frame = numbered_frame(1, 60);
  EXPECT_TRUE(wait_until([&] {
    other_.send(kSlow, frame);
    return worker_->meter().dropped(kSlow) > 10;
  })) << "frames for it are dropped by name";
  EXPECT_EQ(slow_.polls.value(), polls);
  EXPECT_EQ(slow_.copied.value(), 0u);
  EXPECT_EQ(worker_->meter().charged_us(kSlow), charged);
  worker_->begin_window(kSlow, kBudgetUs);
  EXPECT_TRUE(wait_until([&] { return slow_.polls.value() > polls + 1'000; })) << "served again";
}

TEST_F(PortMeterTest, AWorkerThatSleepsServesAPortAgainWhenItsWindowBegins) {
  constexpr std::uint64_t kBudgetUs = 1'000;
  worker_->begin_window(kSlow, kBudgetUs);
  slow_.blocks = true;
  EXPECT_TRUE(wait_until([this] { return worker_->meter().skipped(kSlow) > 0; }));
  slow_.blocks = false;
  const std::uint64_t polls = slow_.polls.value();
  EXPECT_TRUE(wait_until([this] { return worker_->meter().place() == PortMeter::kResting; }))
      << "who is not served keeps nobody awake";
  worker_->begin_window(kSlow, kBudgetUs);
  EXPECT_TRUE(wait_until([&] { return slow_.polls.value() > polls; }));
}

TEST_F(PortMeterTest, WithoutABudgetAPortIsServedWhateverItCosts) {
  worker_->begin_window(kSlow, 0);
  slow_.blocks = true;
  EXPECT_TRUE(wait_until([this] { return worker_->meter().charged_us(kSlow) > 5'000; }));
  EXPECT_EQ(worker_->meter().skipped(kSlow), 0u);
}

// A call that was slow once, and so is looked at.
void make_suspect(PortMeter& meter, PortId port) {
  meter.enter(port);
  burn(2 * kSlowCallNs);
  meter.enter(PortMeter::kOwn);
}

// A frame that leaves a guest for the wire, a tap or an app lies in the guest's memory, whose page may be
// slow to come.
TEST_F(PortMeterTest, Malicious_WhatACopyOutOfAGuestsMemoryWaitsForIsThatGuests) {
  worker_->call([this](Worker::Tables&) { other_.activity.peers_memory = true; });
  slow_.copy_blocks = true;
  const Bytes frame = numbered_frame(1, 60);
  EXPECT_TRUE(wait_until([&] {
    other_.send(kSlow, frame);
    return worker_->meter().charged_us(kOther) > 2'000;
  }));
  EXPECT_EQ(worker_->meter().charged_us(kSlow), 0u);
}

TEST_F(PortMeterTest, Malicious_BetweenTwoGuestsItCannotBeToldWhoseItIs) {
  worker_->call(
      [this](Worker::Tables&) { slow_.activity.peers_memory = other_.activity.peers_memory = true; });
  slow_.copy_blocks = true;
  const Bytes frame = numbered_frame(1, 60);
  EXPECT_TRUE(wait_until([&] {
    other_.send(kSlow, frame);
    return slow_.copied.value() > 10;
  }));
  EXPECT_EQ(worker_->meter().charged_us(kSlow), 0u);
  EXPECT_EQ(worker_->meter().charged_us(kOther), 0u);
}

// Looks into its peer's memory when it is woken.
class SlowToWake final : public Lane {
 public:
  SlowToWake() : Lane(Capabilities{}) {}
  void copy_in(const BurstInfo&, std::span<Packet>) override {}
  std::uint32_t burst(std::span<Packet>, BurstInfo&) override { return 0; }
  void done(std::span<const Packet>) override {}
  int wake_fd() const override { return -1; }
  bool prepare_sleep() override { return false; }
  void woken() override { burn(2 * kSlowCallNs); }
  bool may_rest() const override { return true; }
};

TEST(PortMeterLooks, Malicious_WhatALaneThatRestedWaitsForIsItsOwnPortsAndNoOther) {
  PortMeter meter;
  ActiveLanes lanes;
  lanes.set_meter(&meter);
  SlowToWake lane;
  const ActiveLanes::Entry all[] = {{kSlow, &lane}};
  lanes.refresh(all);
  for (int i = 0; i < 5; ++i) {
    meter.enter(kOther);
    lane.activity.quiet_turns = kQuietTurns;
    lanes.let_rest();
    ASSERT_EQ(lanes.resting(), 1u);
    lane.activity.delivered = true;
    std::vector<Lane*> delivered{&lane};
    meter.enter(kOther);
    lanes.rouse(delivered);
  }
  EXPECT_EQ(meter.slow_calls(kSlow), 5u);
  EXPECT_GT(meter.charged_us(kSlow), 0u);
  EXPECT_EQ(meter.slow_calls(kOther), 0u);
}

TEST(PortMeterLooks, AreFewWhileASuspectHasNothingToDo) {
  constexpr std::uint64_t kTurns = 100'000;
  PortMeter meter;
  make_suspect(meter, kSlow);
  const std::uint64_t looks = meter.looks(), begin = now_ns();
  for (std::uint64_t turn = 0; turn < kTurns; ++turn) {
    meter.enter(kSlow);
    meter.enter(PortMeter::kOwn);
  }
  if (now_ns() - begin > kTurns * kShortCallNs / 4) {
    GTEST_SKIP() << "too slow here: no call is short";
  }
  EXPECT_GT(meter.looks(), looks);
  EXPECT_LT(meter.looks() - looks, kTurns / 4);
}

TEST(PortMeterLooks, Malicious_WhatOnePortMayHaveWaitedForIsNotTheNextOnes) {
  PortMeter meter;
  make_suspect(meter, kSlow);
  make_suspect(meter, kOther);
  meter.enter(kSlow);
  burn(2 * kShortCallNs);  // long enough for the thread to have been blocked
  const std::uint64_t looks = meter.looks();
  meter.enter(kOther);
  EXPECT_EQ(meter.looks(), looks + 1);
  meter.enter(PortMeter::kResting);
  burn(2 * kShortCallNs);
  meter.enter(kSlow);
  EXPECT_EQ(meter.looks(), looks + 2) << "nor what the worker slept";
}

TEST_F(PortMeterTest, SaysInWhosePortTheWorkerStands) {
  slow_.stands = true;
  ASSERT_TRUE(wait_until([this] { return slow_.standing.load(); }));
  const std::uint64_t turns = worker_->turns();
  EXPECT_EQ(worker_->meter().place(), raw(kSlow));
  EXPECT_EQ(worker_->turns(), turns);
  slow_.stands = false;
  EXPECT_TRUE(wait_until([&] { return worker_->turns() > turns; }));
}

TEST_F(PortMeterTest, Malicious_APauseOfAStuckWorkerIsGivenUpAtOnceTheSecondTime) {
  slow_.stands = true;
  ASSERT_TRUE(wait_until([this] { return slow_.standing.load(); }));
  Worker* const workers[] = {worker_.get()};
  bool ran = false;
  EXPECT_EQ(Worker::pause(workers, 1'000'000, [&] { ran = true; }), WorkerId{0});
  for (int i = 0; i < 1'000; ++i) {  // an hour's limit each: nobody waits for it again
    EXPECT_EQ(Worker::pause(workers, 3'600'000'000'000, [&] { ran = true; }), WorkerId{0});
  }
  EXPECT_FALSE(ran);
  slow_.stands = false;
  EXPECT_TRUE(wait_until([&] { return !Worker::pause(workers, 1'000'000'000, [&] { ran = true; }); }));
  EXPECT_TRUE(ran);
}

}  // namespace
}  // namespace sluice
