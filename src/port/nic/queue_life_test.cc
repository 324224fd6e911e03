// Queues that come and go: several in one arena, closed and opened under traffic, NICs that go down or
// vanish.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>

#include "port/nic/nic_fixture.h"
#include "port/nic/nic_info.h"
#include "port/nic/nic_traffic.h"

namespace sluice {
namespace {

using test::LiveFramesOptions;

// Receives `wanted` packets and recycles them.
bool receive_some(NicQueue& queue, std::uint64_t wanted) {
  std::uint64_t received = 0;
  return until([&] {
    std::array<Packet, kBurst> packets;
    BurstInfo info;
    std::uint32_t count = queue.burst(packets, info);
    queue.done(std::span(packets.data(), count));
    queue.poll();
    received += count;
    return received >= wanted;
  });
}

TEST_F(NicTest, TwoQueuesOfOneArenaEachReceiveTheirOwnAndTheFirstMayGoFirst) {
  wire(2);
  Memory memory = this->memory(2 * pages());
  auto pool_0 = memory.pool(pages(), "nic0:0"), pool_1 = memory.pool(pages(), "nic0:1");
  Program program;
  auto link = attach(program.fd()).value();
  auto queue_0 = open(queue_options(0), *memory.umem, *pool_0).value();
  auto queue_1 = open(queue_options(1), *memory.umem, *pool_1).value();
  program.set_socket(0, queue_0->socket_fd());
  program.set_socket(1, queue_1->socket_fd());
  auto round = [&](NicQueue& queue, std::uint16_t id) {
    LiveFramesOptions options;
    options.frame = test::udp_frame(pair_->to_nic());
    options.count = 3000;
    options.source_ports = 5;
    options.cpu = id;  // veth: the queue is that of the sender's CPU
    Receiver receiver(options.count, *memory.arena, options.frame);
    options.allowed = &receiver.allowed;
    auto live = load(options);
    live->start();
    EXPECT_TRUE(until([&] {
      receiver.turn(queue, QueueId{id});
      return receiver.received() >= options.count;
    })) << receiver.received();
    live->wait().value();
    receiver.expect_each_once();
  };
  round(*queue_0, 0);
  round(*queue_1, 1);
  queue_0.reset();
  EXPECT_EQ(pool_0->inflight(), 0u);
  round(*queue_1, 1);
  auto again = open(queue_options(0), *memory.umem, *pool_0);
  ASSERT_TRUE(again) << again.error().message;
  program.set_socket(0, (*again)->socket_fd());
  round(**again, 0);
  queue_1.reset();
  round(**again, 0);
  again->reset();
  EXPECT_EQ(pool_0->inflight(), 0u);
  EXPECT_EQ(pool_1->inflight(), 0u);
  // With no queue left the arena can still be used: it is registered anew.
  auto last = open(queue_options(1), *memory.umem, *pool_1);
  EXPECT_TRUE(last) << last.error().message;
}

TEST_F(NicTest, APageOfOneNicIsSentByAnotherAndComesHomeToItsOwnPool) {
  wire();
  test::VethOptions second_options;
  second_options.nic_name = "nic1";
  second_options.wire_name = "wire1";
  second_options.nic_ip = "10.78.0.1";
  second_options.wire_ip = "10.78.0.2";
  auto second = test::VethPair::create(*nic_ns_, *wire_ns_, second_options).value();
  Memory memory = this->memory(2 * pages());
  auto pool_a = memory.pool(pages(), "nic0:0"), pool_b = memory.pool(pages(), "nic1:0");
  Program program;
  auto link = attach(program.fd()).value();
  auto a = open(queue_options(), *memory.umem, *pool_a).value();
  NicQueueOptions options_b = queue_options();
  options_b.netdev = "nic1";
  options_b.ifindex = second.nic_ifindex();
  auto b = open(options_b, *memory.umem, *pool_b, memory.pools.get()).value();
  program.set_socket(0, a->socket_fd());
  WireTap tap(second);
  LiveFramesOptions options;
  options.count = 1000;
  std::atomic<std::uint64_t> allowed{kWindow};
  options.allowed = &allowed;
  auto live = load(options);
  live->start();
  std::vector<bool> seen(options.count);
  std::uint32_t arrived = 0;
  EXPECT_TRUE(until([&] {
    std::array<Packet, kBurst> packets;
    BurstInfo info;
    std::uint32_t count = a->burst(packets, info);
    b->hand_over(info, std::span(packets.data(), count));
    a->done(std::span(packets.data(), count));
    a->poll();
    b->poll();
    for (test::Frame frame = tap.next(); !frame.empty(); frame = tap.next()) {
      seen[test::sequence_of(frame.data())] = true;
      ++arrived;
    }
    allowed = arrived + kWindow;
    return arrived == options.count;
  })) << arrived;
  EXPECT_EQ(std::count(seen.begin(), seen.end(), true), 1000);
  EXPECT_EQ(counters(*b)["tx_zero_copy"], 1000u);
  EXPECT_TRUE(until([&] {
    b->poll();
    a->poll();
    return memory.pools->lent(*pool_a) == 0;
  })) << memory.pools->lent(*pool_a);
  a.reset();
  EXPECT_EQ(pool_a->inflight(), 0u);
}

// D7, and the promise that the NIC stays Linux's.
TEST_F(NicTest, Crash_ClosingUnderTrafficLosesNoPageAndTheStackKeepsAnswering) {
  wire();
  Memory memory = this->memory(pages());
  auto pool = memory.pool(pages());
  auto pinging = test::Ping::start(*wire_ns_, "10.77.0.1", 3).value();
  LiveFramesOptions options;
  options.packets_per_second = 20'000;
  auto live = load(options);
  live->start();
  for (int round = 0; round < 8; ++round) {
    Program program;
    auto link = attach(program.fd());
    ASSERT_TRUE(link) << link.error().message;
    auto queue = open(queue_options(), *memory.umem, *pool);
    ASSERT_TRUE(queue) << queue.error().message;
    program.set_socket(0, (*queue)->socket_fd());
    EXPECT_TRUE(receive_some(**queue, 100));
    if (round % 2 == 0) {
      (*queue).reset();  // while the program still sends packets here
      EXPECT_EQ(pool->inflight(), 0u);
    } else {
      *link = XdpLink();  // first the program, then the socket
    }
  }
  EXPECT_EQ(pool->inflight(), 0u);
  live->stop().value();
  test::PingResult result = pinging.stop();
  EXPECT_TRUE(result.lossless()) << result.output;
}

TEST_F(NicTest, Crash_PagesWithTheKernelOnTheWayOutComeHomeOnClose) {
  wire();
  Memory memory = this->memory(pages());
  auto pool = memory.pool(pages());
  {
    auto queue = open(queue_options(), *memory.umem, *pool).value();
    Outgoing out(*pair_, 300, 0, 0);
    queue->copy_in(BurstInfo{.domain = DomainId{9}}, out.packets);  // and never polled
    EXPECT_EQ(pool->inflight(), 1024u + 300u);
  }
  EXPECT_EQ(pool->inflight(), 0u);
}

TEST_F(NicTest, Crash_ANicThatVanishesUnderTrafficLeavesTheQueueHarmless) {
  wire();
  Memory memory = this->memory(pages());
  auto pool = memory.pool(pages());
  {
    Program program;
    auto link = attach(program.fd()).value();
    EXPECT_TRUE(link.attached());
    auto queue = open(queue_options(), *memory.umem, *pool).value();
    program.set_socket(0, queue->socket_fd());
    LiveFramesOptions options;
    options.packets_per_second = 20'000;
    auto live = load(options);
    live->start();
    EXPECT_TRUE(receive_some(*queue, 100));
    pair_->remove();
    for (int turn = 0; turn < 100; ++turn) {
      std::array<Packet, kBurst> packets;
      BurstInfo info;
      std::uint32_t count = queue->burst(packets, info);
      queue->done(std::span(packets.data(), count));
      Outgoing out(*pair_, 10, 0, 0);
      queue->copy_in(BurstInfo{.domain = DomainId{9}}, out.packets);
      queue->poll();
    }
    EXPECT_FALSE(link.attached());
    EXPECT_GT(counters(*queue)["tx_kick_errors"], 0u);
    EXPECT_FALSE(queue->prepare_sleep());  // a worker may sleep although frames wait for a NIC that is gone
  }
  EXPECT_EQ(pool->inflight(), 0u);
}

TEST_F(NicTest, TrafficResumesAfterDownAndUp) {
  wire();
  Memory memory = this->memory(pages());
  auto pool = memory.pool(pages());
  Program program;
  auto link = attach(program.fd()).value();
  auto queue = open(queue_options(), *memory.umem, *pool).value();
  program.set_socket(0, queue->socket_fd());
  WireTap tap(*pair_);
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(nic_ns_->command("ip link set nic0 down").ok());
    Outgoing out(*pair_, 5, 0, 0);
    queue->copy_in(BurstInfo{.domain = DomainId{9}}, out.packets);
    queue->poll();
    ASSERT_TRUE(nic_ns_->command("ip link set nic0 up").ok());
    LiveFramesOptions options;
    options.count = 200;
    auto live = load(options);
    live->start();
    EXPECT_TRUE(receive_some(*queue, 200));
    live->wait().value();
    queue->copy_in(BurstInfo{.domain = DomainId{9}}, out.packets);
    std::uint32_t arrived = 0;
    EXPECT_TRUE(until([&] {
      queue->poll();
      while (!tap.next().empty()) {
        ++arrived;
      }
      return arrived >= 5;
    })) << arrived;
  }
}

TEST_F(NicTest, Crash_AProcessThatIsKilledLeavesAnOrdinaryNic) {
  wire();
  std::array<int, 2> ready;
  ASSERT_EQ(::pipe(ready.data()), 0);
  pid_t child = ::fork();
  if (child == 0) {
    nic_ns_->enter();
    Memory memory = Memory::create(pages());
    auto pool = memory.pool(pages());
    Program program;
    auto link = XdpLink::attach(pair_->nic_ifindex(), program.fd());
    auto queue = NicQueue::open(queue_options(), *memory.umem, *pool);
    char ok = link && queue ? 'y' : 'n';
    if (ok == 'y') {
      program.set_socket(0, (*queue)->socket_fd());
    }
    [[maybe_unused]] ssize_t written = ::write(ready[1], &ok, 1);
    for (;;) {
      ::pause();
    }
  }
  char ok = 'n';
  ASSERT_EQ(::read(ready[0], &ok, 1), 1);
  EXPECT_EQ(ok, 'y');
  auto program_id = [&] {
    return nic_ns_->in([&] {
      std::uint32_t id = 0;
      ::bpf_xdp_query_id(pair_->nic_ifindex(), 0, &id);
      return id;
    });
  };
  EXPECT_NE(program_id(), 0u);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
  EXPECT_TRUE(until([&] { return program_id() == 0; }));
  EXPECT_TRUE(test::ping(*wire_ns_, "10.77.0.1").lossless());
  // And the next daemon finds the queue free.
  Memory memory = this->memory(pages());
  auto pool = memory.pool(pages());
  auto queue = open(queue_options(), *memory.umem, *pool);
  EXPECT_TRUE(queue) << queue.error().message;
}

}  // namespace
}  // namespace sluice
