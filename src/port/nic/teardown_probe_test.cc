// When a queue is free, and which answers of the kernel say nothing about it.
#include "port/nic/teardown_probe.h"

#include <cerrno>
#include <deque>

#include "port/nic/nic_fixture.h"
#include "port/nic/pool_buffers.h"

namespace sluice {
namespace {

using Outcome = TeardownProbe::Outcome;

// Answers bind(2) with a list, the last of it for ever.
class ListKernel final : public QueueKernel {
 public:
  explicit ListKernel(std::deque<int> answers) : answers_(std::move(answers)) {}
  int bind(int, const sockaddr_xdp&) override {
    ++binds;
    const int answer = answers_.front();
    if (answers_.size() > 1) {
      answers_.pop_front();
    }
    return answer;
  }
  void close(int socket) override { QueueKernel::real().close(socket); }
  int binds = 0;

 private:
  std::deque<int> answers_;
};

class TeardownProbeTest : public NicTest {
 protected:
  std::unique_ptr<TeardownProbe> probe(QueueKernel& kernel = QueueKernel::real()) {
    return nic_ns_->in([&] { return TeardownProbe::create(kernel).value(); });
  }
  // The real kernel's answer to one bind(2), where no queue of ours is in the way.
  class Listening final : public QueueKernel {
   public:
    int bind(int socket, const sockaddr_xdp& address) override {
      return last = QueueKernel::real().bind(socket, address);
    }
    void close(int socket) override { QueueKernel::real().close(socket); }
    int last = -1;
  };
};

TEST(TeardownProbe, OnlyABoundQueueADeviceThatIsGoneAndAQueueThatIsGoneAreFree_D7) {
  for (int error : {0, ENODEV, EINVAL}) {
    EXPECT_EQ(TeardownProbe::judge(error), Outcome::kFree) << error;
  }
  for (int error : {EBUSY, ENOMEM, ENOBUFS, EINTR, EAGAIN, EPERM, EACCES, ENETDOWN, EOPNOTSUPP, EBADF, EIO}) {
    EXPECT_EQ(TeardownProbe::judge(error), Outcome::kBusy) << error;
  }
}

TEST_F(TeardownProbeTest, WhatTellsNothingIsAskedAgainUntilTheLimit) {
  wire();
  ListKernel passing({EBUSY, ENOMEM, ENOBUFS, EINTR, EPERM, EACCES, ENETDOWN, 0});
  auto first = probe(passing);
  EXPECT_EQ(first->wait_until_free(pair_->nic_ifindex(), QueueId{0}, kDeadlineNs), Outcome::kFree);
  EXPECT_EQ(passing.binds, 8);
  EXPECT_EQ(first->ask(pair_->nic_ifindex(), QueueId{0}), Outcome::kFree);
  EXPECT_EQ(passing.binds, 8) << "its last answer stays";
  ListKernel lasting({ENOMEM});
  auto second = probe(lasting);
  EXPECT_EQ(second->wait_until_free(pair_->nic_ifindex(), QueueId{0}, 5'000'000), Outcome::kBusy);
  EXPECT_GT(lasting.binds, 1);
}

TEST_F(TeardownProbeTest, TheKernelGivesTheseAnswersOnAVeth) {
  wire(2);
  Memory memory = this->memory(pages());
  auto pool = memory.pool(pages());
  auto ask = [&](std::uint16_t queue) {
    Listening kernel;
    probe(kernel)->ask(pair_->nic_ifindex(), QueueId{queue});
    return kernel.last;
  };
  auto queue = open(queue_options(1), *memory.umem, *pool).value();
  EXPECT_EQ(ask(1), EBUSY);
  EXPECT_TRUE(until([&] { return ask(0) == 0; }));
  ASSERT_TRUE(nic_ns_->command("ip link set nic0 down").ok());
  EXPECT_EQ(ask(1), EBUSY);
  queue.reset();
  EXPECT_TRUE(until([&] { return ask(1) == 0; })) << "also while it is down";
  ASSERT_TRUE(nic_ns_->command("ip link set nic0 up").ok());
  ASSERT_TRUE(until([&] { return nic_ns_->command("ethtool -L nic0 rx 1 tx 1").ok(); }))
      << "refused while a pool is taken down";
  EXPECT_EQ(ask(1), EINVAL);
  auto early = probe();
  pair_->remove();
  EXPECT_EQ(early->ask(pair_->nic_ifindex(), QueueId{0}), Outcome::kFree);
  EXPECT_EQ(ask(0), ENODEV);
}

TEST_F(TeardownProbeTest, AQueueWhoseKernelIsNeverDoneKeepsItsPagesUntilItIs_D7) {
  wire();
  Memory memory = this->memory(pages());
  auto pool = memory.pool(pages());
  class Never final : public QueueKernel {
   public:
    int bind(int socket, const sockaddr_xdp& address) override {
      return (address.sxdp_flags & XDP_COPY) != 0 && held ? ENOMEM
                                                          : QueueKernel::real().bind(socket, address);
    }
    void close(int socket) override { QueueKernel::real().close(socket); }
    bool held = true;
  } kernel;
  auto buffers = std::make_unique<PoolBuffers>(*pool, queue_options().tx_entries);
  auto queue = nic_ns_->in(
      [&] { return NicQueue::prepare(queue_options(), *memory.umem, std::move(buffers), kernel).value(); });
  ASSERT_TRUE(until([&] {
    auto call = nic_ns_->in([&] { return queue->next_bind().value(); });
    return queue->bound(kernel.bind(call.socket, call.address)).value() == NicQueue::Bound::kYes;
  }));
  queue->fill();
  EXPECT_EQ(pool->inflight(), 1024u);
  queue->release();
  for (int i = 0; i < 100; ++i) {
    EXPECT_FALSE(queue->let_go());
  }
  EXPECT_EQ(pool->inflight(), 1024u);
  kernel.held = false;
  ASSERT_TRUE(until([&] { return queue->let_go(); }));
  EXPECT_TRUE(queue->bring_home());
  EXPECT_EQ(pool->inflight(), 0u);
}

}  // namespace
}  // namespace sluice
