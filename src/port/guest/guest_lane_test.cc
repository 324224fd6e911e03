#include <gtest/gtest.h>
#include <poll.h>

#include <random>

#include "port/guest/guest_test_fixture.h"

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
    bench.deliver(frames.back(), i % 130 < frames.back().size() ? i % 130 : 0);
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
  EXPECT_EQ(bench.counter("tx_gathered"), 0u);
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
    for (const auto& pieces : layouts) {
      for (const std::size_t bytes : {14u, 60u, 128u, 129u, 1514u, 9000u}) {
        const Bytes frame = guest_frame(++number, bytes);
        ASSERT_TRUE(bench.guest.send(frame, {.pieces = pieces, .shape = shape}));
        const auto taken = bench.take();
        ASSERT_EQ(taken.size(), 1u) << number;
        ASSERT_EQ(taken[0], frame) << number;
        ASSERT_EQ(bench.guest.reap_sent(), 1u);
      }
    }
  }
  EXPECT_GT(bench.counter("tx_gathered"), 0u);
  EXPECT_EQ(bench.faults(), 0u);
}

TEST_P(GuestLaneTest, PutsTogetherMoreThanItHasRoomForInSeveralBursts) {
  Bench& bench = begin();
  for (std::uint32_t i = 0; i < 20; ++i) {
    ASSERT_TRUE(bench.guest.send(guest_frame(i, 65000), {.pieces = {12, 30000}}));
  }
  const auto taken = bench.take();
  ASSERT_EQ(taken.size(), 20u);
  for (std::uint32_t i = 0; i < 20; ++i) {
    ASSERT_EQ(taken[i], guest_frame(i, 65000));
  }
  EXPECT_EQ(bench.counter("tx_gathered"), 20u);
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
          burst.push_back(packet_of(
              frame, below(std::min<std::uint32_t>(128, static_cast<std::uint32_t>(frame.size())))));
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
          for (std::uint32_t piece = below(4); piece > 0; --piece) {
            layout.pieces.push_back(1 + below(200));
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
        const std::uint32_t count = bench.lane().tx_burst(std::span(packets).first(below(kBurst + 1)));
        for (std::uint32_t i = 0; i < count; ++i) {
          ASSERT_FALSE(from.empty());
          ASSERT_EQ(bytes_of(packets[i]), from.front()) << step;
          from.pop_front();
        }
        bench.lane().tx_done(count);
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

}  // namespace
}  // namespace sluice::test
