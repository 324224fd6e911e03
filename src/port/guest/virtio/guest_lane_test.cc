#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>
#include <random>

#include "base/fd.h"
#include "port/burst_of.h"
#include "port/guest/virtio/call_sender.h"
#include "port/guest/virtio/guest_test_fixture.h"
#include "port/test_frames.h"

namespace sluice::test {
namespace {

class GuestLaneTest : public testing::TestWithParam<Variant> {
 protected:
  Bench& begin(GuestPolicy policy = Bench::default_policy(), std::uint32_t buffer_bytes = 2048) {
    const Variant& variant = GetParam();
    bench_.emplace(MockGuest::Options{.format = variant.format,
                                      .entries = variant.entries,
                                      .features = variant.features,
                                      .buffer_bytes = buffer_bytes},
                   std::move(policy));
    return *bench_;
  }
  bool has(std::uint64_t feature) const { return (GetParam().features & feature) != 0; }
  std::optional<Bench> bench_;
};

INSTANTIATE_TEST_SUITE_P(Rings, GuestLaneTest, testing::ValuesIn(all_variants()),
                         [](const auto& one) { return one.param.name; });

TEST_P(GuestLaneTest, DeliversFramesUnchangedAndInOrderWhateverTheSplitOfHeadAndBody) {
  Bench& bench = begin();
  std::vector<Bytes> frames;
  for (std::uint32_t i = 0; i < 600; ++i) {
    frames.push_back(guest_frame(i, 14 + i * 7 % 1500));
    bench.deliver(frames.back(), static_cast<std::uint16_t>(i % 130 < frames.back().size() ? i % 130 : 0));
    const auto got = bench.guest.receive();
    ASSERT_TRUE(got) << i;
    ASSERT_EQ(*got, frames.back()) << i;
  }
  EXPECT_EQ(bench.counter("rx_packets"), 600u);
  EXPECT_EQ(bench.counter("copied"), 600u);
  EXPECT_EQ(bench.faults(), 0u);
}

TEST_P(GuestLaneTest, DeliversWholeBursts) {
  Bench& bench = begin();
  for (std::uint32_t round = 0; round < 50; ++round) {
    std::vector<Bytes> frames;
    std::vector<Packet> packets;
    for (std::uint32_t i = 0; i < kBurst - 1; ++i) {
      frames.push_back(guest_frame(round * kBurst + i, 60 + i));
    }
    for (const Bytes& frame : frames) {
      packets.push_back(packet_of(frame, 20));
    }
    bench.deliver(packets);
    for (const Bytes& frame : frames) {
      const auto got = bench.guest.receive();
      ASSERT_TRUE(got);
      ASSERT_EQ(*got, frame);
    }
    EXPECT_FALSE(bench.guest.receive());
  }
}

TEST_P(GuestLaneTest, TakesFramesInOrderEachOnce) {
  Bench& bench = begin();
  std::uint32_t sent = 0, taken = 0;
  while (taken < 2000) {
    for (std::uint32_t i = 0; i < 100 && bench.guest.send(guest_frame(sent, 60 + sent % 1400)); ++i) {
      ++sent;
    }
    for (const Bytes& frame : bench.take()) {
      ASSERT_EQ(frame, guest_frame(taken, 60 + taken % 1400)) << taken;
      ++taken;
    }
    bench.guest.reap_sent();
    ASSERT_EQ(taken, sent);
  }
  EXPECT_EQ(bench.guest.tx().outstanding(), 0u);
  EXPECT_EQ(bench.counter("tx_packets"), taken);
  EXPECT_EQ(bench.counter("tx_segmented"), 0u);
  EXPECT_EQ(bench.faults(), 0u);
}

TEST_P(GuestLaneTest, TakesFramesOfAnyLayout) {
  Bench& bench = begin();
  const std::vector<std::vector<std::uint32_t>> layouts = {{12},
                                                           {10},
                                                           {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                                                           {12, 14},
                                                           {12, 64},
                                                           {26, 300},
                                                           {12, 128, 1},
                                                           {140},
                                                           {141},
                                                           {139},
                                                           {12, 700, 5, 9},
                                                           {13, 13, 13, 13, 13}};
  std::uint32_t number = 0;
  for (const auto shape : {MockDriver::Shape::kChain, MockDriver::Shape::kIndirect}) {
    if (shape == MockDriver::Shape::kIndirect && !has(kIndirectDesc)) {
      continue;
    }
    for (const auto& segments : layouts) {
      for (const std::size_t bytes : {14u, 60u, 128u, 129u, 1514u, 9000u}) {
        const Bytes frame = guest_frame(++number, bytes);
        ASSERT_TRUE(bench.guest.send(frame, {.segments = segments, .shape = shape}));
        const auto taken = bench.take();
        ASSERT_EQ(taken.size(), 1u) << number;
        ASSERT_EQ(taken[0], frame) << number;
        ASSERT_EQ(bench.guest.reap_sent(), 1u);
      }
    }
  }
  EXPECT_GT(bench.counter("tx_segmented"), 0u);
  EXPECT_EQ(bench.faults(), 0u);
}

// From the buffers of one guest into those of another, without a copy in between.
TEST_P(GuestLaneTest, PassesFramesInAnySegmentsByteForByte) {
  Bench& bench = begin();
  std::mt19937 random(20261128);
  for (std::uint32_t number = 0; number < 300; ++number) {
    const Bytes frame = guest_frame(number, 60 + below(random, has(kMergeable) ? 20'000 : 1400));
    std::vector<std::uint32_t> segments;
    for (std::uint32_t i = 0, count = 1 + below(random, 12); i < count; ++i) {
      segments.push_back(1 + below(random, 1 + below(random, 2000)));
    }
    const bool indirect = has(kIndirectDesc) && below(random, 2) == 0;
    ASSERT_TRUE(bench.guest.send(
        frame, {.segments = segments,
                .shape = indirect ? MockDriver::Shape::kIndirect : MockDriver::Shape::kChain}));
    std::array<Packet, kBurst> packets;
    BurstInfo info;
    ASSERT_EQ(bench.lane().burst(packets, info), 1u) << number;
    EXPECT_LE(packets[0].segments().size(), info.most_segments);
    bench.lane().copy_in(info, std::span(packets).first(1));
    bench.lane().done(std::span(packets).first(1));
    bench.lane().poll();
    ASSERT_EQ(bench.guest.receive(), frame) << number;
    ASSERT_EQ(bench.guest.reap_sent(), 1u);
  }
  EXPECT_GT(bench.counter("tx_segmented"), 0u);
  EXPECT_EQ(bench.faults(), 0u);
}

TEST_P(GuestLaneTest, ATurnTakesNoMoreThanItsBytesOfTheLongestFrames) {  // D6
  Bench& bench = begin();
  constexpr std::uint32_t kFrames = 20;
  for (std::uint32_t i = 0; i < kFrames; ++i) {
    ASSERT_TRUE(bench.guest.send(guest_frame(i, 65535)));
  }
  std::array<Packet, kBurst> packets;
  for (std::uint32_t taken = 0; taken < kFrames;) {
    const std::span burst = std::span(packets).first(burst_of(bench.lane(), packets));
    ASSERT_FALSE(burst.empty());
    std::uint64_t bytes = 0;
    for (const Packet& packet : burst) {
      bytes += packet.bytes();
    }
    EXPECT_LE(bytes, kTurnBytes);
    taken += static_cast<std::uint32_t>(burst.size());
    bench.lane().done(burst);
    EXPECT_EQ(bench.lane().poll() >= kBurst, taken < kFrames) << "what is left is asked for in the next turn";
  }
}

TEST_P(GuestLaneTest, LeavesWhatIsMoreThanATurnsBytesToTheNextBurst) {
  Bench& bench = begin();
  for (std::uint32_t i = 0; i < 20; ++i) {
    ASSERT_TRUE(bench.guest.send(guest_frame(i, 65000), {.segments = {12, 30000}}));
  }
  const auto taken = bench.take();
  ASSERT_EQ(taken.size(), 20u);
  for (std::uint32_t i = 0; i < 20; ++i) {
    ASSERT_EQ(taken[i], guest_frame(i, 65000));
  }
  EXPECT_EQ(bench.counter("tx_segmented"), 20u);
}

TEST_P(GuestLaneTest, SplitsLongFramesOverSeveralBuffersOrDropsThemByName) {
  Bench& bench = begin(Bench::default_policy(), 512);
  std::uint32_t delivered = 0;
  for (std::uint32_t i = 0; i < 200; ++i) {
    const Bytes frame = guest_frame(i, 400 + i * 37);
    bench.deliver(frame, 100);
    const auto got = bench.guest.receive();
    const bool fits = frame.size() + 12 <= 512 || (has(kMergeable) && frame.size() + 12 <= 512 * 64);
    if (fits) {
      ++delivered;
      ASSERT_TRUE(got) << i;
      ASSERT_EQ(*got, frame);
    } else if (frame.size() + 12 > 512) {
      ASSERT_FALSE(got) << i;
    }
  }
  EXPECT_EQ(bench.counter("drop_too_long") + bench.counter("rx_packets"), 200u);
  EXPECT_GE(delivered, 3u);
}

TEST_P(GuestLaneTest, DropsByNameWhatHasNoBuffer) {
  Bench& bench = begin();
  const Bytes frame = guest_frame(1, 60);
  for (std::uint32_t i = 0; i < 300; ++i) {
    bench.deliver(frame);
  }
  EXPECT_EQ(bench.counter("rx_packets"), GetParam().entries);
  EXPECT_EQ(bench.counter("drop_ring_full"), 300u - GetParam().entries);
}

TEST_P(GuestLaneTest, CarriesNothingWhileItDoesNotRun) {
  Bench& bench = begin();
  bench.device.enable_ring(0, false);
  bench.deliver(guest_frame(1, 60));
  EXPECT_EQ(bench.counter("drop_not_running"), 1u);
  bench.device.enable_ring(1, false);
  ASSERT_TRUE(bench.guest.send(guest_frame(2, 60)));
  EXPECT_TRUE(bench.take().empty());
  bench.device.enable_ring(0, true);
  bench.device.enable_ring(1, true);
  bench.deliver(guest_frame(3, 60));
  EXPECT_EQ(bench.guest.receive(), guest_frame(3, 60));
  EXPECT_EQ(bench.take().size(), 1u);
}

TEST_P(GuestLaneTest, StopsAndGoesOnWhereItStood) {
  Bench& bench = begin();
  for (std::uint32_t round = 0; round < 300; ++round) {
    bench.deliver(guest_frame(round, 100));
    ASSERT_EQ(bench.guest.receive(), guest_frame(round, 100));
    ASSERT_TRUE(bench.guest.send(guest_frame(round, 90)));
    if (round % 2 == 0) {
      ASSERT_EQ(bench.take().size(), 1u);
    }
    for (std::uint32_t index : {0u, 1u}) {
      VringSetup setup = index == 0 ? bench.guest.rx().setup() : bench.guest.tx().setup();
      setup.base = bench.device.stop_ring(index);
      bench.device.start_ring(index, setup);
    }
    ASSERT_EQ(bench.take().size(), round % 2);
    ASSERT_EQ(bench.guest.reap_sent(), 1u);
  }
  EXPECT_EQ(bench.faults(), 0u);
}

// D8: rings are started on the control thread, and a page of theirs may be slow to come.
TEST_P(GuestLaneTest, Malicious_StartingARingTouchesNothingOfTheGuestsMemory) {
  constexpr std::uint64_t kBytes = 16 << 20;
  Bench& bench = begin();
  ASSERT_TRUE(bench.guest.send(guest_frame(1, 90)));
  std::byte* memory = bench.guest.memory().at(MockMemory::kBase, kBytes);
  std::array<VringSetup, 2> setups{bench.guest.rx().setup(), bench.guest.tx().setup()};
  for (std::uint32_t index : {0u, 1u}) {
    setups[index].base = bench.device.stop_ring(index);
    setups[index].base.in_memory = setups[index].format == VringFormat::kSplit;
  }
  ASSERT_EQ(::mprotect(memory, kBytes, PROT_NONE), 0);
  for (std::uint32_t index : {0u, 1u}) {
    bench.device.start_ring(index, setups[index]);
  }
  ASSERT_EQ(::mprotect(memory, kBytes, PROT_READ | PROT_WRITE), 0);
  EXPECT_EQ(bench.take(), (std::vector<Bytes>{guest_frame(1, 90)})) << "the worker begins it";
  bench.deliver(guest_frame(2, 100));
  EXPECT_EQ(bench.guest.receive(), guest_frame(2, 100));
  EXPECT_EQ(bench.faults(), 0u);
}

TEST_P(GuestLaneTest, RefusesToSleepOverAFrameAndIsWokenByTheNextOne) {
  Bench& bench = begin();
  auto readable = [&bench] {
    pollfd entry{.fd = bench.lane().wake_fd(), .events = POLLIN, .revents = 0};
    return ::poll(&entry, 1, 0) == 1;
  };
  for (std::uint32_t round = 0; round < 600; ++round) {
    ASSERT_FALSE(bench.lane().prepare_sleep());
    ASSERT_FALSE(readable());
    ASSERT_TRUE(bench.guest.send(guest_frame(round, 60)));
    ASSERT_TRUE(bench.guest.tx().kick_needed()) << round;
    bench.guest.tx().kick();
    ASSERT_TRUE(readable());
    bench.lane().woken();
    ASSERT_FALSE(readable());
    ASSERT_TRUE(bench.guest.send(guest_frame(round, 60)));
    if (round > 0 && !has(kEventIdx)) {
      ASSERT_FALSE(bench.guest.tx().kick_needed()) << "it is awake";
    }
    ASSERT_TRUE(bench.lane().prepare_sleep()) << "over two frames";
    bench.lane().woken();
    ASSERT_EQ(bench.take().size(), 2u);
    bench.guest.reap_sent();
  }
  EXPECT_EQ(bench.counter("kicks"), 600u);
}

TEST_P(GuestLaneTest, CallsADriverThatWaitsAndNoOther) {
  Bench& bench = begin();
  bench.lane().poll();
  bench.guest.rx().called();
  for (std::uint32_t round = 0; round < 600; ++round) {
    bench.guest.rx().ask_for_calls(round % 2 == 0);
    bench.deliver(guest_frame(round, 60));
    bench.lane().poll();
    ASSERT_EQ(bench.guest.rx().called(), round % 2 == 0) << round;
    ASSERT_TRUE(bench.guest.receive());
  }
  EXPECT_EQ(bench.device.ring_state(0).calls, 300u);
  EXPECT_EQ(bench.device.ring_state(0).calls_suppressed, 300u);
}

// A driver that does everything that a driver may, at random, beside a model that is two queues of frames.
TEST_P(GuestLaneTest, Model_EveryFrameComesOnceInOrderAndUnchanged) {
  Bench& bench = begin(Bench::default_policy(), 1024);
  std::mt19937 random(4711);
  auto below = [&random](std::uint32_t bound) { return static_cast<std::uint32_t>(random() % bound); };
  std::deque<Bytes> towards, from;
  std::uint32_t number = 0;
  std::array<Packet, kBurst> packets;
  for (std::uint32_t step = 0; step < 8000; ++step) {
    switch (below(7)) {
      case 0: {
        std::vector<Bytes> frames;
        for (std::uint32_t i = below(kBurst); i > 0; --i) {
          frames.push_back(guest_frame(++number, 14 + below(has(kMergeable) ? 5000 : 900)));
        }
        std::vector<Packet> burst;
        for (const Bytes& frame : frames) {
          burst.push_back(packet_of(frame, static_cast<std::uint16_t>(below(std::min<std::uint32_t>(
                                               128, static_cast<std::uint32_t>(frame.size()))))));
        }
        // Which of them found room is known one by one only.
        for (std::size_t i = 0; i < frames.size(); ++i) {
          const std::uint64_t before = bench.counter("rx_packets");
          bench.deliver(std::span(&burst[i], 1));
          if (bench.counter("rx_packets") > before) {
            towards.push_back(frames[i]);
          }
        }
        break;
      }
      case 1:
        for (std::uint32_t i = below(80); i > 0 && !towards.empty(); --i) {
          ASSERT_EQ(bench.guest.receive(), towards.front()) << step;
          towards.pop_front();
        }
        break;
      case 2:
        bench.guest.tx().hold_back(below(2) == 0);
        for (std::uint32_t i = below(40); i > 0; --i) {
          MockGuest::Layout layout;
          for (std::uint32_t segment = below(4); segment > 0; --segment) {
            layout.segments.push_back(1 + below(200));
          }
          layout.shape =
              has(kIndirectDesc) && below(2) == 0 ? MockDriver::Shape::kIndirect : MockDriver::Shape::kChain;
          const Bytes frame = guest_frame(++number, 14 + below(3000));
          if (bench.guest.send(frame, layout)) {
            from.push_back(frame);
          }
        }
        bench.guest.tx().publish();
        break;
      case 3: {
        const std::uint32_t count = burst_of(bench.lane(), std::span(packets).first(below(kBurst + 1)));
        for (std::uint32_t i = 0; i < count; ++i) {
          ASSERT_FALSE(from.empty());
          ASSERT_EQ(bytes_of(packets[i]), from.front()) << step;
          from.pop_front();
        }
        bench.lane().done(std::span(packets).first(count));
        break;
      }
      case 4:
        bench.guest.reap_sent();
        break;
      case 5:
        bench.lane().poll();
        break;
      default: {
        const std::uint32_t index = below(2);
        VringSetup setup = index == 0 ? bench.guest.rx().setup() : bench.guest.tx().setup();
        setup.base = bench.device.stop_ring(index);
        bench.device.start_ring(index, setup);
      }
    }
  }
  EXPECT_EQ(bench.faults(), 0u);
  EXPECT_GT(bench.counter("tx_packets"), 1000u);
  EXPECT_GT(bench.counter("rx_packets"), 1000u);
}

// Several workers and several pairs of queues: who serves which.
class GuestDeviceServing : public testing::TestWithParam<std::uint32_t> {
 protected:
  static constexpr std::uint32_t kPairs = 5;
  static constexpr std::uint32_t kPerQueue = 40;
  // Neither in order nor without gaps.
  static constexpr std::array<WorkerId, 3> kWorkers{WorkerId{4}, WorkerId{9}, WorkerId{2}};

  GuestDeviceServing()
      : memory_({{MockMemory::kBase, std::uint64_t{64} << 20}}),
        device_(policy(), {kWorkers.begin(), kWorkers.end()}, kPairs) {
    for (std::uint32_t pair = 0; pair < kPairs; ++pair) {
      guests_.push_back(std::make_unique<MockGuest>(memory_, MockGuest::Options{.entries = 64}));
    }
    device_.set_memory(memory_.table());
    for (std::uint32_t pair = 0; pair < kPairs; ++pair) {
      guests_[pair]->start_rings(device_, pair);
      guests_[pair]->fill_receive();
    }
  }
  static GuestPolicy policy() {
    GuestPolicy policy = Bench::default_policy();
    policy.serving = GetParam();
    return policy;
  }
  std::uint32_t serving() const {
    return GetParam() == 0 ? static_cast<std::uint32_t>(kWorkers.size()) : GetParam();
  }
  Lane& lane(std::size_t worker) { return device_.lane(kWorkers[worker]); }

  void send_on_every_queue() {
    for (std::uint32_t pair = 0; pair < kPairs; ++pair) {
      for (std::uint32_t i = 0; i < kPerQueue; ++i) {
        ASSERT_TRUE(guests_[pair]->send(guest_frame(pair * 1000 + i, 60)));
      }
    }
  }
  // A few frames from each lane in turn, so that each of several that serve one queue gets some of it.
  void expect_each_queue_from_its_lane_alone() {
    std::array<std::uint32_t, kPairs> came{};
    std::array<Packet, 4> packets;
    for (std::uint32_t idle = 0; idle < 2 * kPairs; ++idle) {
      for (std::uint32_t worker = 0; worker < kWorkers.size(); ++worker) {
        const std::uint32_t count = burst_of(lane(worker), packets);
        for (const Packet& packet : std::span(packets).first(count)) {
          const Bytes frame = bytes_of(packet);
          std::uint32_t number = 0;
          std::memcpy(&number, frame.data() + 14, sizeof number);
          const std::uint32_t pair = number / 1000;
          ASSERT_LT(pair, kPairs);
          ASSERT_EQ(frame, guest_frame(pair * 1000 + came[pair]++, 60)) << "each once, in order";
          ASSERT_EQ(worker, pair % serving()) << "pairs go round the workers that serve";
          ASSERT_EQ(kWorkers[worker], device_.ring_state(2 * pair + 1).worker);
          idle = 0;
        }
        lane(worker).done(std::span(packets).first(count));
        lane(worker).poll();
      }
    }
    for (std::uint32_t pair = 0; pair < kPairs; ++pair) {
      EXPECT_EQ(came[pair], kPerQueue) << "pair " << pair;
      EXPECT_EQ(guests_[pair]->reap_sent(), kPerQueue);
    }
  }

  MockMemory memory_;
  GuestDevice device_;
  std::vector<std::unique_ptr<MockGuest>> guests_;
};

INSTANTIATE_TEST_SUITE_P(Serving, GuestDeviceServing, testing::Values(0u, 1u, 2u, 3u));

TEST_P(GuestDeviceServing, TakesEveryTransmitQueueInOneLaneAndTheOthersGetNothingOfIt) {
  send_on_every_queue();
  expect_each_queue_from_its_lane_alone();
}
TEST_P(GuestDeviceServing, KeepsEveryTransmitQueueInItsLaneWhileOthersStopAndStart) {
  for (std::uint32_t stopped = 0; stopped < kPairs; ++stopped) {
    send_on_every_queue();
    const std::uint32_t ring = 2 * stopped + 1;
    VringSetup setup = guests_[stopped]->tx().setup();
    setup.base = device_.stop_ring(ring);
    std::array<Packet, kBurst> packets;
    for (std::uint32_t worker = serving(); worker < kWorkers.size(); ++worker) {
      EXPECT_EQ(burst_of(lane(worker), packets), 0u) << "it serves none, also when another one is gone";
    }
    device_.start_ring(ring, setup);
    ASSERT_NO_FATAL_FAILURE(expect_each_queue_from_its_lane_alone());
  }
}
TEST_P(GuestDeviceServing, WakesTheLaneOfTheQueueThatWasKickedAndNoOther) {
  for (std::uint32_t pair = 0; pair < kPairs; ++pair) {
    for (std::uint32_t worker = 0; worker < kWorkers.size(); ++worker) {
      ASSERT_FALSE(lane(worker).prepare_sleep());
    }
    ASSERT_TRUE(guests_[pair]->send(guest_frame(pair * 1000, 60)));
    guests_[pair]->tx().kick();
    for (std::uint32_t worker = 0; worker < kWorkers.size(); ++worker) {
      pollfd entry{.fd = lane(worker).wake_fd(), .events = POLLIN, .revents = 0};
      EXPECT_EQ(::poll(&entry, 1, 0), worker == pair % serving() ? 1 : 0) << pair << ", worker " << worker;
      lane(worker).woken();
    }
    std::array<Packet, kBurst> packets;
    Lane& its_lane = lane(pair % serving());
    ASSERT_EQ(burst_of(its_lane, packets), 1u);
    its_lane.done(std::span(packets).first(1));
  }
}
// Who has no queues of its own delivers to all of them, who has some to those alone.
TEST_P(GuestDeviceServing, DeliversFromEveryLane) {
  constexpr std::uint32_t kFlows = 64;
  for (std::uint32_t worker = 0; worker < kWorkers.size(); ++worker) {
    for (std::uint32_t flow = 0; flow < kFlows; ++flow) {
      Bytes frame = guest_frame(flow, 60);
      frame[11] = static_cast<std::byte>(flow);  // of the source's address: without IP a flow of its own
      Packet packet = packet_of(frame);
      lane(worker).copy_in(BurstInfo{}, std::span(&packet, 1));
      lane(worker).poll();
    }
    std::uint32_t received = 0;
    for (std::uint32_t pair = 0; pair < kPairs; ++pair) {
      std::uint32_t here = 0;
      while (guests_[pair]->receive()) {
        ++here;
      }
      EXPECT_EQ(here > 0, worker >= serving() || worker == pair % serving()) << pair << ", worker " << worker;
      received += here;
    }
    EXPECT_EQ(received, kFlows);
  }
}

// fs.aio-max-nr is the whole system's: what any local user holds of it is missing here. A worker keeps the
// context it had, whatever ports are made later.
TEST(GuestLane, Malicious_WithAioUsedUpAWorkerStillCallsTheGuestsOfNewPorts) {
  ASSERT_NE(CallSender::of_this_thread(), nullptr);
  // Few and large ones: each takes a while to be destroyed.
  std::vector<aio_context_t> greedy;
  for (unsigned events = 32768; events != 0 && greedy.size() < 100;) {
    aio_context_t context = 0;
    if (::syscall(SYS_io_setup, events, &context) == 0) {
      greedy.push_back(context);
    } else {
      events /= 2;
    }
  }
  const bool used_up = !CallSender::create().has_value();
  const UniqueFd call(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const int fd = call.get();
  CallSender* sender = CallSender::of_this_thread();
  ASSERT_NE(sender, nullptr);
  EXPECT_EQ(sender->send(std::span(&fd, 1)), 1u);
  for (const aio_context_t context : greedy) {
    ::syscall(SYS_io_destroy, context);
  }
  std::uint64_t count = 0;
  EXPECT_EQ(::read(fd, &count, sizeof count), 8);
  EXPECT_EQ(count, 1u);
  if (!used_up) {
    GTEST_SKIP() << "fs.aio-max-nr is too large to be used up here";
  }
}

}  // namespace
}  // namespace sluice::test
