#include "worker/pause.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

namespace sluice {
namespace {

// As a worker: bursts, and between two of them a look into the mailbox.
class Bursts {
 public:
  Bursts() : mailbox_(Mailbox::create().value()), thread_([this] { run(); }) {}
  ~Bursts() {
    held_ = false;
    stop_ = true;
    thread_.join();
  }
  Mailbox* mailbox() { return mailbox_.get(); }
  bool inside() const { return inside_; }
  std::uint64_t bursts() const { return bursts_; }
  // The next burst does not end before release().
  void hold() {
    held_ = true;
    while (!stands_) {
      std::this_thread::yield();
    }
  }
  void release() { held_ = false; }

 private:
  void run() {
    while (!stop_) {
      inside_ = true;
      while (held_) {
        stands_ = true;
        std::this_thread::yield();
      }
      stands_ = false;
      inside_ = false;
      bursts_ = bursts_ + 1;
      if (mailbox_->pending()) {
        mailbox_->run_pending();
      }
      std::this_thread::yield();
    }
  }
  std::unique_ptr<Mailbox> mailbox_;
  std::atomic<bool> inside_{false}, held_{false}, stands_{false}, stop_{false};
  std::atomic<std::uint64_t> bursts_{0};
  std::thread thread_;
};

class PauseTest : public ::testing::Test {
 protected:
  std::array<Bursts, 3> workers_;
  std::array<Mailbox*, 3> mailboxes_{workers_[0].mailbox(), workers_[1].mailbox(), workers_[2].mailbox()};
};

TEST_F(PauseTest, TheChangeRunsOnceHereWhileNobodyIsInABurst) {
  std::uint64_t plain = 0;  // for TSan: workers' bursts and the change are ordered
  for (int i = 0; i < 50; ++i) {
    int ran = 0;
    EXPECT_EQ(pause_all(mailboxes_, kPauseForEver,
                        [&] {
                          ++ran;
                          ++plain;
                          for (const Bursts& worker : workers_) {
                            EXPECT_FALSE(worker.inside());
                          }
                        }),
              std::nullopt);
    EXPECT_EQ(ran, 1);
  }
  EXPECT_EQ(plain, 50u);
}

TEST_F(PauseTest, WithoutWorkersTheChangeRunsAtOnce) {
  bool ran = false;
  EXPECT_EQ(pause_all({}, 0, [&] { ran = true; }), std::nullopt);
  EXPECT_TRUE(ran);
}

TEST_F(PauseTest, EachWorkerIsCalledOncePerPauseOfWorkersThatCome) {
  const std::uint64_t before = mailboxes_[0]->count();
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(pause_all(std::span(mailboxes_).first(1), kPauseForEver, [] {}), std::nullopt);
  }
  EXPECT_EQ(mailboxes_[0]->count() - before, 50u);
  EXPECT_EQ(mailboxes_[1]->count(), 0u) << "not concerned, not paused";
}

TEST_F(PauseTest, Malicious_WhoDoesNotComeIsNamedTheOthersGoOnAndTheChangeNeverRuns) {
  workers_[1].hold();
  bool ran = false;
  EXPECT_EQ(pause_all(mailboxes_, 2 * kFirstGatherNs, [&] { ran = true; }), std::optional<std::size_t>(1));
  const std::uint64_t before = workers_[0].bursts();
  while (workers_[0].bursts() == before) {  // goes on while worker 1 still stands
    std::this_thread::yield();
  }
  EXPECT_TRUE(workers_[1].inside());
  workers_[1].release();
  EXPECT_EQ(pause_all(mailboxes_, kPauseForEver, [] {}), std::nullopt);
  EXPECT_FALSE(ran) << "given up is given up";
}

TEST_F(PauseTest, Malicious_TheOthersAreNotHeldWhileALateWorkerIsWaitedFor) {
  workers_[2].hold();
  std::atomic<bool> done{false};
  std::thread control([&] {
    EXPECT_EQ(pause_all(mailboxes_, kPauseForEver, [] {}), std::nullopt);
    done = true;
  });
  // Far more bursts than fit between the post and the arrival: worker 0 runs freely.
  const std::uint64_t before = workers_[0].bursts();
  while (workers_[0].bursts() < before + 10'000) {
    std::this_thread::yield();
  }
  EXPECT_FALSE(done);
  workers_[2].release();
  control.join();
  EXPECT_TRUE(done);
}

TEST_F(PauseTest, TwoThreadsThatPauseTheSameWorkersBothGetThrough) {
  std::uint64_t plain = 0;
  auto many = [&](std::array<Mailbox*, 3> order) {
    for (int i = 0; i < 25; ++i) {
      EXPECT_EQ(pause_all(order, kPauseForEver, [&] { ++plain; }), std::nullopt);
    }
  };
  std::thread other(many, std::array{mailboxes_[2], mailboxes_[1], mailboxes_[0]});
  many(mailboxes_);
  other.join();
  EXPECT_EQ(plain, 50u);
}

TEST_F(PauseTest, AChangeThatThrowsLetsTheWorkersGo) {
  EXPECT_THROW(pause_all(mailboxes_, kPauseForEver, [] { throw std::bad_alloc(); }), std::bad_alloc);
  EXPECT_EQ(pause_all(mailboxes_, kPauseForEver, [] {}), std::nullopt);
}

TEST(Mailbox, ACancelledCallNeverRunsAndOneThatHasRunCannotBeCancelled) {
  auto mailbox = Mailbox::create().value();
  bool ran = false;
  Mailbox::Call call{.task = [&] { ran = true; }};
  mailbox->post(call);
  EXPECT_TRUE(mailbox->cancel(call));
  mailbox->run_pending();
  EXPECT_FALSE(ran);
  mailbox->post(call);
  mailbox->run_pending();
  EXPECT_TRUE(ran);
  EXPECT_FALSE(mailbox->cancel(call));
}

}  // namespace
}  // namespace sluice
