#include "worker/active_lanes.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <random>
#include <vector>

#include "port/fake/fake.h"
#include "port/fake/lane_conformance.h"
#include "worker/test_running.h"

namespace sluice {
namespace {

constexpr PortId kNic{2}, kApp{3};
using Idle = WorkerOptions::Idle;
const Bytes kFrame = numbered_frame(1, 60);

// Resting lanes are woken by what they were put to rest for: each of many lanes, in turn and at random, after
// it has rested, by its peer and by a delivery, while another keeps the worker busy. Naive model: all is
// delivered.
void wakes_lanes_that_rest(Idle idle) {
  constexpr std::size_t kLanes = 20;
  FakeArena pages(DomainId::kHost, 64);
  FakeQueue nic(pages, {});
  std::vector<std::unique_ptr<FakeLane>> lanes;
  Running worker(idle);
  worker.add_queue(kNic, nic);
  for (std::uint16_t i = 0; i < kLanes; ++i) {
    const PortId port{static_cast<std::uint16_t>(10 + i)};
    lanes.push_back(std::make_unique<FakeLane>(nullptr, FakeLane::Options{.domain = domain_of(port)}));
    worker.add(port, *lanes.back());
  }
  std::mt19937 random(5);
  // A worker that sleeps takes few turns per frame: there two lanes are busy for a while and the rest rests.
  std::array<std::size_t, 2> busy{};
  for (int i = 0; i < 5000; ++i) {
    if (i % 500 == 0) {
      busy = {random() % kLanes, random() % kLanes};
    }
    const std::size_t to = idle == Idle::kSpin ? random() % kLanes : busy[random() % 2];
    const std::size_t from = idle == Idle::kSpin ? random() % kLanes : busy[random() % 2];
    if (random() % 64 == 0) {
      ASSERT_TRUE(nic.arrive(PortId{static_cast<std::uint16_t>(10 + to)}, kFrame));
    } else {
      ASSERT_TRUE(lanes[from]->send(PortId{static_cast<std::uint16_t>(10 + to)}, kFrame));
    }
    ASSERT_TRUE(wait_until([&] { return lanes[to]->take().has_value(); })) << "frame " << i;
    if (random() % 100 == 0) {
      ASSERT_TRUE(wait_until([&] { return idle != Idle::kSpin || counters(*worker)["lanes_active"] == 0; }));
    }
    if (random() % 200 == 0) {
      worker.end_turn();
    }
  }
  auto now = counters(*worker);
  EXPECT_EQ(now["lanes_active"] + now["lanes_resting"], kLanes);
  EXPECT_GT(now["lane_rests"], kLanes);
  EXPECT_EQ(now["lane_rests"] - now["lane_rouses"], now["lanes_resting"]);
}

TEST(ActiveLanes, Model_LosesNoWakeUpOfALaneThatRests) {
  wakes_lanes_that_rest(Idle::kSpin);
}

TEST(ActiveLanes, Model_LosesNoWakeUpOfALaneThatRestsWhenItSleepsToo) {
  wakes_lanes_that_rest(Idle::kAdaptive);
}

TEST(ActiveLanes, PollsNoLaneThatNobodyUses) {
  constexpr std::size_t kIdle = 500;
  FakeLane app(nullptr, {.domain = domain_of(kApp)});
  std::vector<std::unique_ptr<FakeLane>> idle;
  Running worker(Idle::kSpin);
  for (std::size_t i = 0; i < kIdle; ++i) {
    idle.push_back(std::make_unique<FakeLane>(nullptr, FakeLane::Options{.domain = DomainId{7}, .ring = 4}));
  }
  worker->call([&](Worker::Tables& tables) {
    for (auto& lane : idle) {
      tables.lanes.emplace_back(PortId{9}, lane.get());
    }
  });
  worker.add(kApp, app);
  const auto exchange = [&] {
    ASSERT_TRUE(app.send(kApp, kFrame));
    ASSERT_TRUE(wait_until([&] { return app.take().has_value(); }));
  };
  exchange();
  ASSERT_TRUE(wait_until([&] { return counters(*worker)["lanes_resting"] >= kIdle; }));
  const auto polls = [&] {
    std::uint64_t sum = 0;
    for (const auto& lane : idle) {
      sum += lane->polls.value();
    }
    return sum;
  };
  const std::uint64_t before = polls();
  const std::uint64_t turns = counters(*worker)["turns"];
  for (int i = 0; i < 300; ++i) {
    exchange();
  }
  EXPECT_GT(counters(*worker)["turns"], turns);
  EXPECT_EQ(polls(), before);
  EXPECT_LE(counters(*worker)["lanes_active"], 1u);
}

// The descriptor lives on in the peer after ours is closed: a set that still watched it would name a lane
// that is gone.
TEST(ActiveLanes, Malicious_AWakeUpOfARestingLaneThatWentWakesNobody) {
  FakeLane stays(nullptr, {.domain = domain_of(kApp)});
  auto goes = std::make_unique<FakeLane>(nullptr, FakeLane::Options{.domain = domain_of(kNic)});
  Running worker(Idle::kSpin);
  worker.add(kNic, *goes);
  worker.add(kApp, stays);
  ASSERT_TRUE(wait_until([&] { return counters(*worker)["lanes_resting"] == 2; }));
  const int kept = ::dup(goes->wake_fd());
  worker->call([&](Worker::Tables& tables) {
    std::erase_if(tables.lanes, [&](const auto& entry) { return entry.second == goes.get(); });
    tables.by_port[raw(kNic)] = nullptr;
  });
  goes.reset();
  worker.end_turn();
  EXPECT_EQ(counters(*worker)["lanes_resting"], 1u);
  const std::uint64_t one = 1;
  EXPECT_EQ(::write(kept, &one, sizeof one), 8);
  ::close(kept);
  ASSERT_TRUE(stays.send(kApp, kFrame));
  EXPECT_TRUE(wait_until([&] { return stays.take().has_value(); }));
  EXPECT_EQ(counters(*worker)["lane_rouses"], 1u);
}

}  // namespace
}  // namespace sluice
