#include "port/waker.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>

namespace sluice::test {
namespace {

constexpr std::uint64_t kDeadlineNs = 20'000'000'000;

template <typename Done>
bool eventually(Done done) {
  for (const std::uint64_t deadline = now_ns() + kDeadlineNs; !done();) {
    if (now_ns() > deadline) {
      return false;
    }
    std::this_thread::yield();
  }
  return true;
}

void burn_cpu(std::uint64_t ns) {
  for (const std::uint64_t begin = ThreadUsage::now().cpu_ns; ThreadUsage::now().cpu_ns - begin < ns;) {
  }
}

// A peer whose wake-ups cost what it likes.
class Peer final : public WakeTarget {
 public:
  explicit Peer(std::shared_ptr<WakePrice> price) : WakeTarget(UniqueFd(), std::move(price)) {}
  bool wake() override {
    begun_.fetch_add(1);
    while (held_.load()) {
      std::this_thread::yield();
    }
    burn_cpu(cost_ns_.load());
    done_.fetch_add(1);
    return !refuses_.load();
  }
  void cost(std::uint64_t ns) { cost_ns_ = ns; }
  void refuse(bool on) { refuses_ = on; }
  void hold() { held_ = true; }
  void let_go() { held_ = false; }
  std::uint64_t begun() const { return begun_; }
  std::uint64_t done() const { return done_; }

 private:
  std::atomic<std::uint64_t> cost_ns_{0}, begun_{0}, done_{0};
  std::atomic<bool> held_{false}, refuses_{false};
};

class WakerTest : public ::testing::Test {
 protected:
  ~WakerTest() override {
    for (const auto& peer : peers_) {
      peer->let_go();
      waker_.retire(peer);
    }
  }
  Peer& add(std::shared_ptr<WakePrice> price = std::make_shared<WakePrice>()) {
    peers_.push_back(std::make_shared<Peer>(std::move(price)));
    waker_.add(peers_.back());
    return *peers_.back();
  }
  // As a lane does: by itself while that is cheap. False: by the waker.
  bool wake_as_a_lane(Peer& peer) {
    if (peer.price().dear()) {
      waker_.ask(peer);
      return false;
    }
    peer.price().make(1, [&peer] { peer.wake(); });
    return true;
  }
  std::vector<std::shared_ptr<Peer>> peers_;
  Waker waker_{Waker::Options{}};
};
using Malicious_Waker = WakerTest;

TEST_F(WakerTest, PeersThatAreCheapToWakeAreWokenByWhoAsks) {
  Peer& peer = add();
  for (int i = 0; i < 10'000; ++i) {
    ASSERT_TRUE(wake_as_a_lane(peer));
  }
  EXPECT_EQ(peer.done(), 10'000u);
  EXPECT_EQ(peer.price().dear_wakes(), 0u);
  EXPECT_EQ(peer.price().by_waker(), 0u);
}

TEST_F(Malicious_Waker, APeerThatIsDearToWakeCostsItsWorkerFourWakeUpsAndNoMore) {
  Peer& peer = add();
  peer.cost(2'000'000);
  EXPECT_TRUE(wake_as_a_lane(peer));  // perhaps preempted
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(wake_as_a_lane(peer));  // CPU time, or a hypervisor that we cannot see
  }
  for (std::uint64_t i = 1; i <= 5; ++i) {
    ASSERT_FALSE(wake_as_a_lane(peer));
    ASSERT_TRUE(eventually([&] { return peer.price().by_waker() == i; }));
  }
  EXPECT_EQ(peer.done(), 9u);
  EXPECT_EQ(peer.price().dear_wakes(), 6u) << "from the one on that was too much";
}

TEST_F(Malicious_Waker, OneThatIsVeryDearCostsTwo) {
  Peer& peer = add();
  peer.cost(kSurelyDearNs);
  EXPECT_TRUE(wake_as_a_lane(peer));
  EXPECT_TRUE(wake_as_a_lane(peer));
  EXPECT_FALSE(wake_as_a_lane(peer));
}

TEST_F(WakerTest, AWakeUpThatIsSlowNowAndThenIsNobodysFault) {
  Peer& peer = add();
  for (int i = 0; i < 20; ++i) {
    peer.cost(2'000'000);
    EXPECT_TRUE(wake_as_a_lane(peer));
    peer.cost(0);
    for (int cheap = 0; cheap < 40; ++cheap) {
      EXPECT_TRUE(wake_as_a_lane(peer));
    }
  }
  EXPECT_EQ(peer.price().dear_wakes(), 0u);
}

TEST_F(WakerTest, WhoWasPreemptedWhileItWokeAPeerIsNotMistakenForADearOne) {
  Peer& peer = add();
  for (int i = 0; i < 20 && !peer.price().dear(); ++i) {
    peer.price().make(1, [] {
      const std::uint64_t cpu_ns = ThreadUsage::now().cpu_ns;
      for (const std::uint64_t begin = now_ns();
           now_ns() - begin < 3 * kDearWakeNs && ThreadUsage::now().cpu_ns - cpu_ns < kDearWakeNs / 2;) {
        ::sched_yield();
      }
    });
  }
  EXPECT_FALSE(peer.price().dear());
}

TEST_F(WakerTest, EveryAskIsFollowedByAWakeUp) {
  Peer& peer = add();
  for (std::uint64_t i = 0; i < 2'000; ++i) {
    const std::uint64_t begun = peer.begun();
    waker_.ask(peer);
    ASSERT_TRUE(eventually([&] { return peer.begun() > begun; })) << i;
  }
}

TEST_F(Malicious_Waker, DearPeersHoldUpNeitherEachOtherForEverNorACheapOne) {
  std::vector<Peer*> dear;
  for (int i = 0; i < 20; ++i) {
    dear.push_back(&add());
    dear.back()->cost(1'000'000);
  }
  Peer& cheap = add();
  // All that is dear asks as often as it can.
  for (std::uint64_t round = 1; round <= 50; ++round) {
    for (Peer* peer : dear) {
      waker_.ask(*peer);
    }
    waker_.ask(cheap);
    ASSERT_TRUE(eventually([&] { return cheap.done() >= round; }));
  }
  std::uint64_t wakes = 0;
  for (Peer* peer : dear) {
    EXPECT_TRUE(eventually([&] { return peer->done() >= 2; }));
    wakes += peer->done();
  }
  EXPECT_LT(wakes, 20u * 50) << "they rest between two wake-ups";
}

TEST_F(Malicious_Waker, OnePortHasOneWakeUpUnderWayHoweverManyDescriptorsItHas) {
  auto price = std::make_shared<WakePrice>();
  Peer& first = add(price);
  std::vector<Peer*> more;
  for (int i = 0; i < 8; ++i) {
    more.push_back(&add(price));
  }
  Peer& other = add();
  first.hold();
  waker_.ask(first);
  ASSERT_TRUE(eventually([&] { return first.begun() == 1; }));
  for (Peer* peer : more) {
    waker_.ask(*peer);
  }
  waker_.ask(other);
  EXPECT_TRUE(eventually([&] { return other.done() == 1; }));
  for (Peer* peer : more) {
    EXPECT_EQ(peer->begun(), 0u);
  }
  first.let_go();
  for (Peer* peer : more) {
    EXPECT_TRUE(eventually([&] { return peer->done() == 1; }));
  }
}

TEST_F(Malicious_Waker, TheEndOfASessionDoesNotWaitForAWakeUpThatIsUnderWay_D7) {
  Peer& peer = add();
  peer.hold();
  waker_.ask(peer);
  ASSERT_TRUE(eventually([&] { return peer.begun() == 1; }));
  std::weak_ptr<Peer> seen = peers_.back();
  waker_.retire(std::move(peers_.back()));
  peers_.pop_back();
  EXPECT_FALSE(seen.expired()) << "its descriptor is still used";
  EXPECT_EQ(waker_.targets(), 0u);
  if (const auto still_used = seen.lock()) {
    still_used->let_go();
  }
  EXPECT_TRUE(eventually([&] {
    waker_.reap();
    return seen.expired();
  }));
}

TEST_F(WakerTest, WhatCannotBeDoneNowIsTriedAgain) {
  Peer& peer = add();
  peer.refuse(true);
  waker_.ask(peer);
  ASSERT_TRUE(eventually([&] { return peer.done() >= 3; }));
  EXPECT_EQ(peer.price().by_waker(), 0u);
  peer.refuse(false);
  EXPECT_TRUE(eventually([&] { return peer.price().by_waker() == 1; }));
}

TEST(WakePrice_, IsForgivenAfterManyCheapWakeUpsAndAWhileAndLaterEachTime) {
  WakePrice price;
  const auto become_dear = [&] {
    for (int i = 0; i < 5 && !price.dear(); ++i) {
      price.make(1, [] { burn_cpu(6 * kDearWakeNs); });
    }
    ASSERT_TRUE(price.dear());
  };
  const auto woken_cheaply_at = [&](std::uint64_t now) {
    for (std::uint32_t i = 0; i < kCheapWakes; ++i) {
      price.was_woken(1000, now);
    }
  };
  become_dear();
  woken_cheaply_at(now_ns());
  EXPECT_TRUE(price.dear()) << "not for so short a while";
  woken_cheaply_at(now_ns() + kForgiveNs);
  EXPECT_FALSE(price.dear());
  become_dear();
  woken_cheaply_at(now_ns() + kForgiveNs);
  EXPECT_TRUE(price.dear()) << "twice as long the second time";
  const std::uint64_t later = now_ns() + 2 * kForgiveNs;
  price.was_woken(kSurelyDearNs, later);
  woken_cheaply_at(later + 1);
  EXPECT_TRUE(price.dear()) << "from the last dear one on";
  woken_cheaply_at(later + 2 * kForgiveNs);
  EXPECT_FALSE(price.dear());
}

}  // namespace
}  // namespace sluice::test
