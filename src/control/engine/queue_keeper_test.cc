// Queues whose kernel is slow, or never done: control goes on, workers' turns go on, and each queue says what
// it waits for. Real links, and a kernel that can be stopped.
#include "control/engine/queue_keeper.h"

#include <condition_variable>
#include <map>
#include <mutex>

#include "base/leave_behind.h"
#include "control/engine/attached_nic.h"
#include "port/nic/nic_fixture.h"

namespace sluice {
namespace {

using test::LiveFramesOptions;

// The real one, but for calls that it holds until release() or the end.
class StoppedKernel final : public QueueKernel {
 public:
  ~StoppedKernel() override { release(); }
  // From now on: bind(2) of our sockets, not the probes'.
  void hold_binds(bool on) { turn(hold_binds_, on); }
  void hold_closes(bool on) { turn(hold_closes_, on); }
  // Answers bind(2) of our sockets instead of the kernel; 0: no longer.
  void answer(int error) {
    std::lock_guard lock(mutex_);
    answer_ = error;
  }
  void release() {
    hold_binds(false);
    hold_closes(false);
  }
  int held() const {
    std::lock_guard lock(mutex_);
    return held_;
  }

  int bind(int socket, const sockaddr_xdp& address) override {
    if (!is_probe(address)) {
      std::unique_lock lock(mutex_);
      wait(lock, hold_binds_);
      if (answer_ != 0) {
        return answer_;
      }
    }
    return QueueKernel::real().bind(socket, address);
  }
  void close(int socket) override {
    {
      std::unique_lock lock(mutex_);
      wait(lock, hold_closes_);
    }
    QueueKernel::real().close(socket);
  }

 private:
  static bool is_probe(const sockaddr_xdp& address) { return address.sxdp_flags == XDP_COPY; }
  void turn(bool& flag, bool on) {
    {
      std::lock_guard lock(mutex_);
      flag = on;
    }
    changed_.notify_all();
  }
  void wait(std::unique_lock<std::mutex>& lock, const bool& held) {
    ++held_;
    changed_.wait(lock, [&held] { return !held; });
    --held_;
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool hold_binds_ = false, hold_closes_ = false;
  int answer_ = 0, held_ = 0;
};

class QueueKeeperTest : public NicTest {
 protected:
  void start(std::uint32_t queues) {
    wire(queues);
    for (std::uint16_t i = 0; i < 2; ++i) {
      workers_.push_back(Worker::start({.id = WorkerId{i}}).value());
    }
    loop_ = EventLoop::create().value();
    host_memory_ = std::make_unique<HostMemory>(2048, ArenaOptions::Huge::kNever);
    nic_ns_->in([&] {
      SLUICE_CHECK(host_memory_->reserve(queues * pages_for_queue(queue_options(), 0)).has_value());
    });
    keeper_ =
        QueueKeeper::create(
            {.loop = loop_.get(), .host_memory = host_memory_.get(), .workers = workers_, .kernel = &kernel_})
            .value();
  }
  std::unique_ptr<Nic> attach_nic(const std::string& netdev = "nic0", std::uint16_t id = 0) {
    NicConfig config;
    config.netdev = netdev;
    config.ring = 1024;
    Nic::Wiring wiring{.id = NicId{id},
                       .port = PortId{static_cast<std::uint16_t>(10 + id)},
                       .workers = workers_,
                       .keeper = keeper_.get()};
    return nic_ns_->in([&] { return AttachedNic::attach(config, wiring).value(); });
  }
  void TearDown() override {
    if (keeper_) {
      kernel_.release();
      kernel_.answer(0);
      unit_.reset();
      other_.reset();
      turn_until([&] { return keeper_->queues().empty(); });
      keeper_.reset();
    }
  }

  // The control loop, in the NIC's namespace.
  template <typename Condition>
  bool turn_until(Condition condition) {
    return nic_ns_->in([&] {
      return until([&] {
        loop_->turn(1);
        return condition();
      });
    });
  }
  static QueueState state_of(const Nic& unit, std::uint16_t queue) {
    return unit.queues().at(QueueId{queue})->state();
  }
  bool all_open(const Nic& unit) {
    return turn_until([&] {
      return std::ranges::all_of(unit.queues(), [](const auto& queue) { return queue.second->open(); });
    });
  }
  void expect_workers_go_on() {
    for (const auto& worker : workers_) {
      const std::uint64_t before = worker->turns();
      worker->call([](Worker::Tables&) {});
      EXPECT_GT(worker->turns(), before);
    }
  }
  std::size_t closing() const {
    return static_cast<std::size_t>(std::ranges::count_if(
        keeper_->queues(), [](const auto& queue) { return queue->state() == QueueState::kClosing; }));
  }
  std::size_t worker_queues(std::uint16_t worker) {
    std::size_t count = 0;
    workers_[worker]->call([&](Worker::Tables& tables) { count = tables.queues.size(); });
    return count;
  }

  std::unique_ptr<StoppedKernel> stopped_kernel_ = std::make_unique<StoppedKernel>();
  StoppedKernel& kernel_ = *stopped_kernel_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<HostMemory> host_memory_;
  std::unique_ptr<QueueKeeper> keeper_;
  std::unique_ptr<Nic> unit_, other_;
};

TEST_F(QueueKeeperTest, QueuesOpenOneAfterAnotherAndShareOneRegistration) {
  start(2);
  unit_ = attach_nic();
  for (QueueId queue : unit_->given_queues()) {
    unit_->open_host_queue(queue);
    EXPECT_EQ(state_of(*unit_, raw(queue)), QueueState::kOpening);
  }
  ASSERT_TRUE(all_open(*unit_));
  EXPECT_TRUE(keeper_->settled());
  EXPECT_EQ(worker_queues(0) + worker_queues(1), 2u);
  unit_.reset();
  EXPECT_EQ(worker_queues(0) + worker_queues(1), 0u) << "at once, whatever the kernel does then";
  EXPECT_TRUE(turn_until([&] { return keeper_->queues().empty(); }));
}

TEST_F(QueueKeeperTest, AKernelThatNeverBindsHoldsUpNobody) {
  start(2);
  unit_ = attach_nic();
  kernel_.hold_binds(true);
  unit_->open_host_queue(QueueId{0});
  ASSERT_TRUE(turn_until([&] { return kernel_.held() == 1; }));
  for (int i = 0; i < 100; ++i) {
    loop_->turn(0);
  }
  expect_workers_go_on();
  EXPECT_EQ(state_of(*unit_, 0), QueueState::kOpening);
  EXPECT_FALSE(keeper_->settled());
  unit_->close_queue(QueueId{0});
  EXPECT_TRUE(unit_->queues().empty());
  EXPECT_EQ(closing(), 1u) << "its memory stays until the call has come back";
  unit_->open_host_queue(QueueId{0});
  for (int i = 0; i < 100; ++i) {
    loop_->turn(0);
  }
  EXPECT_EQ(kernel_.held(), 1) << "the same place waits for the one before";
  kernel_.release();
  EXPECT_TRUE(all_open(*unit_));
  EXPECT_EQ(closing(), 0u);
}

TEST_F(QueueKeeperTest, AKernelThatNeverClosesHoldsUpNobodyAndKeepsThePages_D7) {
  start(2);
  unit_ = attach_nic();
  unit_->open_host_queue(QueueId{0});
  unit_->open_host_queue(QueueId{1});
  ASSERT_TRUE(all_open(*unit_));
  kernel_.hold_closes(true);
  unit_->close_queue(QueueId{0});
  ASSERT_TRUE(turn_until([&] { return kernel_.held() == 1; }));
  EXPECT_EQ(closing(), 1u);
  const KeptQueue& stuck = *keeper_->queues().back();
  EXPECT_EQ(stuck.host_pool()->inflight(), 1024u) << "pages that the kernel may write to";
  unit_->open_host_queue(QueueId{0});
  EXPECT_EQ(state_of(*unit_, 1), QueueState::kOpen);
  expect_workers_go_on();
  // Another queue of the same NIC comes and goes meanwhile.
  kernel_.hold_closes(false);
  ASSERT_TRUE(all_open(*unit_));
  EXPECT_EQ(closing(), 0u);
}

TEST_F(QueueKeeperTest, OneSlowNicDoesNotDelayAnother) {
  start(1);
  test::VethOptions second;
  second.nic_name = "nic1";
  second.wire_name = "wire1";
  second.nic_ip = "10.78.0.1";
  second.wire_ip = "10.78.0.2";
  auto pair = test::VethPair::create(*nic_ns_, *wire_ns_, second).value();
  unit_ = attach_nic();
  other_ = attach_nic("nic1", 1);
  kernel_.hold_binds(true);
  unit_->open_host_queue(QueueId{0});
  ASSERT_TRUE(turn_until([&] { return kernel_.held() == 1; }));
  other_->open_host_queue(QueueId{0});
  ASSERT_TRUE(turn_until([&] { return kernel_.held() == 2; })) << "by a thread of its own";
  kernel_.release();
  EXPECT_TRUE(all_open(*unit_));
  EXPECT_TRUE(all_open(*other_));
}

// Pages of one NIC are in the TX ring of another that is down. Its queue comes back without them, but not
// again and again: what it leaves behind is bounded.
TEST_F(QueueKeeperTest, APoolWhosePagesAnotherNicHasRetiresUntilTheyAreHome_D7) {
  start(1);
  test::VethOptions second;
  second.nic_name = "nic1";
  second.wire_name = "wire1";
  second.nic_ip = "10.78.0.1";
  second.wire_ip = "10.78.0.2";
  auto pair = test::VethPair::create(*nic_ns_, *wire_ns_, second).value();
  nic_ns_->in([&] { host_memory_->reserve(30'000).value(); });  // one arena for all that there will be
  unit_ = attach_nic();
  other_ = attach_nic("nic1", 1);
  unit_->open_host_queue(QueueId{0});
  other_->open_host_queue(QueueId{0});
  ASSERT_TRUE(all_open(*unit_) && all_open(*other_));
  const Rule to_other{.match = {}, .port = other_->port()};
  ASSERT_TRUE(unit_->program().set_port(other_->port(), {.kind = PortKind::kSocket}));
  ASSERT_TRUE(unit_->program().replace_rules(std::span(&to_other, 1)));
  auto set_link = [&](const std::string& state) {
    ASSERT_TRUE(nic_ns_->command("ip link set nic1 " + state).ok());
    other_->update_info(nic_ns_->in([] { return read_nic_info("nic1").value(); }));
  };
  set_link("down");
  auto sent_by_page = [&] { return counters(*other_->queues().at(QueueId{0})->socket())["tx_zero_copy"]; };
  constexpr std::size_t kMost = 4;
  std::uint64_t sent = 0;
  for (std::size_t round = 1; round <= kMost; ++round) {
    LiveFramesOptions options;
    options.count = 10;
    load(options)->run().value();
    ASSERT_TRUE(turn_until([&] { return sent_by_page() > sent; })) << round;
    sent = sent_by_page();
    unit_->close_queue(QueueId{0});
    ASSERT_TRUE(turn_until([&] { return keeper_->retired().count() == round; })) << round;
    EXPECT_EQ(closing(), 0u) << "nobody waits for the other NIC";
    unit_->open_host_queue(QueueId{0});
    if (round < kMost) {
      ASSERT_TRUE(all_open(*unit_)) << round;
    }
  }
  ASSERT_TRUE(turn_until([&] { return !unit_->queues().at(QueueId{0})->why().empty(); }));
  EXPECT_NE(unit_->queues().at(QueueId{0})->why().find("in the TX ring of another NIC"), std::string::npos);
  EXPECT_EQ(state_of(*unit_, 0), QueueState::kOpening);
  set_link("up");
  EXPECT_TRUE(turn_until([&] { return keeper_->retired().count() == 0; }));
  EXPECT_TRUE(all_open(*unit_));
}

TEST_F(QueueKeeperTest, WhatFailsSaysWhyAndIsTriedAgain) {
  start(1);
  unit_ = attach_nic();
  kernel_.answer(ENOMEM);
  unit_->open_host_queue(QueueId{0});
  ASSERT_TRUE(turn_until([&] { return state_of(*unit_, 0) == QueueState::kFailed; }));
  const KeptQueue& queue = *unit_->queues().at(QueueId{0});
  EXPECT_NE(queue.why().find("make the rings smaller"), std::string::npos) << queue.why();
  EXPECT_EQ(queue.host_pool(), nullptr) << "a failed queue holds no memory";
  EXPECT_FALSE(queue.is_taken());
  kernel_.answer(0);
  EXPECT_TRUE(all_open(*unit_));
  EXPECT_EQ(queue.why(), "");
}

TEST_F(QueueKeeperTest, AnotherProgramsQueueIsWaitedForWithoutHoldingUpTheOthers) {
  start(2);
  Memory theirs = this->memory(pages());
  auto their_pool = theirs.pool(pages());
  auto their_queue = open(queue_options(0), *theirs.umem, *their_pool).value();
  unit_ = attach_nic();
  unit_->open_host_queue(QueueId{0});
  unit_->open_host_queue(QueueId{1});
  ASSERT_TRUE(turn_until([&] { return state_of(*unit_, 1) == QueueState::kOpen; }));
  EXPECT_EQ(state_of(*unit_, 0), QueueState::kOpening);
  ASSERT_TRUE(turn_until([&] { return !unit_->queues().at(QueueId{0})->why().empty(); }));
  EXPECT_NE(unit_->queues().at(QueueId{0})->why().find("another AF_XDP socket"), std::string::npos);
  their_queue.reset();
  EXPECT_TRUE(all_open(*unit_));
}

TEST_F(QueueKeeperTest, OwnersMemoryIsUsedUntilTheKernelIsDoneAlsoWhenTheNicIsGone_D7) {
  start(1);
  unit_ = attach_nic();
  Memory app = this->memory(pages());
  auto pool = app.pool(pages());
  unit_->open_owned_queue(QueueId{0}, PortId{5}, false, *app.umem, *pool);
  ASSERT_TRUE(all_open(*unit_));
  kernel_.hold_closes(true);
  pair_->remove();
  unit_.reset();
  bool unused = false;
  keeper_->when_unused(app.umem.get(), [&] { unused = true; });
  ASSERT_TRUE(turn_until([&] { return kernel_.held() == 1; }));
  EXPECT_FALSE(unused);
  EXPECT_EQ(pool->inflight(), 1024u);
  kernel_.release();
  ASSERT_TRUE(turn_until([&] { return unused; }));
  EXPECT_EQ(pool->inflight(), 0u);
}

TEST_F(QueueKeeperTest, TheEndIsBoundedAndWhatIsStillWithTheKernelIsLeftToIt) {
  start(1);
  unit_ = attach_nic();
  unit_->open_host_queue(QueueId{0});
  ASSERT_TRUE(all_open(*unit_));
  kernel_.hold_closes(true);
  unit_.reset();
  EXPECT_FALSE(keeper_->finish(20'000'000));
  EXPECT_TRUE(keeper_->queues().empty());
  keeper_.reset();
  leave_behind(std::move(host_memory_));
  leave_behind(std::move(stopped_kernel_));  // a helper is in it
}

}  // namespace
}  // namespace sluice
