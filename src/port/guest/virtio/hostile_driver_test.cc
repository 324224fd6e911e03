// What a driver can do to the worker that serves its rings: make buffers available without end, all of them
// bad or long to walk. However it goes about it, one turn of the worker has a bounded amount of work (D6).
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <thread>

#include "base/untrusted.h"
#include "port/burst_of.h"
#include "port/guest/virtio/burst_lock.h"
#include "port/guest/virtio/guest_test_fixture.h"
#include "port/guest/virtio/ring/packed_ring.h"
#include "port/guest/virtio/ring/split_ring.h"

namespace sluice::test {
namespace {

constexpr std::uint64_t kNowhere = 0x10;  // of no region

std::uint64_t bad_buffers(const Bench& bench) {
  std::uint64_t sum = 0;
  for (const char* fault : {"fault_buffer_unmapped", "fault_buffer_empty", "fault_buffer_direction",
                            "fault_buffer_pieces", "fault_buffer_indirect", "fault_buffer_header"}) {
    sum += bench.counter(fault);
  }
  return sum;
}

MockGuest::Options options_of(const Variant& variant) {
  return {.format = variant.format, .entries = variant.entries, .features = variant.features};
}

class Malicious_Driver : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(Rings, Malicious_Driver, testing::ValuesIn(all_variants()),
                         [](const auto& one) { return one.param.name; });

// Buffers that are bad from the first: of each burst, and of bursts from any number of sources.
TEST_P(Malicious_Driver, BadBuffersCostATurnItsBudgetHoweverManyThereAre) {
  Variant variant = GetParam();
  variant.entries = 1024;
  Bench bench(options_of(variant), Bench::default_policy(), {WorkerId{0}}, Bench::Receive::kEmpty);
  const Segment nowhere{.address = kNowhere, .bytes = 2048};
  while (bench.guest.rx().post(std::span(&nowhere, 1), 0)) {
  }
  const Bytes frame = guest_frame(1, 60);
  for (std::uint64_t turn = 1; turn <= 3; ++turn) {
    for (int source = 0; source < 8; ++source) {
      bench.deliver(frame);
    }
    EXPECT_LE(bad_buffers(bench), turn * kWastedPerTurn);
    EXPECT_EQ(bench.counter("drop_bad_buffers"), turn * 8);
    bench.lane().poll();
  }
  EXPECT_EQ(bench.counter("rx_packets"), 0u);
}

// What the driver does where no index says that it may: at the same time as the device, which writes plainly
// there. A checker of threads is not to look.
#if defined(__clang__)
#define SLUICE_UNCHECKED [[gnu::noinline]] __attribute__((disable_sanitizer_instrumentation))
#else
#define SLUICE_UNCHECKED [[gnu::noinline]]
#endif
SLUICE_UNCHECKED std::uint32_t peek(const std::uint32_t& shared) {
  return __atomic_load_n(&shared, __ATOMIC_RELAXED);
}
SLUICE_UNCHECKED void poke(std::uint32_t& shared, std::uint32_t value) {
  __atomic_store_n(&shared, value, __ATOMIC_RELAXED);
}

// A second CPU of the guest: makes the buffers of a burst available again as soon as they have been given
// back, without waiting for us to say so.
class Refiller {
 public:
  explicit Refiller(MockDriver& driver) : driver_(driver), thread_([this] { run(); }) { ready_.wait(false); }
  ~Refiller() {
    stop_ = true;
    thread_.join();
  }

 private:
  static constexpr std::uint32_t kUntouched = 0xdead'beef;
  static constexpr std::uint16_t kStep = 32;

  void say_ready() {
    ready_ = true;
    ready_.notify_one();
  }
  void run() { driver_.options().format == VringFormat::kSplit ? run_split() : run_packed(); }

  void run_split() {
    vring_used* used = driver_.used();
    const std::uint16_t entries = driver_.options().entries;
    for (std::uint16_t i = 0; i < entries; ++i) {
      poke(used->ring[i].len, kUntouched);
    }
    std::uint16_t index = read_once(driver_.avail()->idx);
    say_ready();
    for (std::uint16_t last = kStep - 1; !stop_;
         last = static_cast<std::uint16_t>((last + kStep) % entries)) {
      while (!stop_ && peek(used->ring[last].len) == kUntouched) {
      }
      poke(used->ring[last].len, kUntouched);
      index = static_cast<std::uint16_t>(index + kStep);
      write_once(driver_.avail()->idx, index, std::memory_order_release);
    }
  }

  void run_packed() {
    const std::uint16_t entries = driver_.options().entries;
    constexpr std::uint64_t kAvail = std::uint64_t{1} << (48 + VRING_PACKED_DESC_F_AVAIL);
    constexpr std::uint64_t kUsed = std::uint64_t{1} << (48 + VRING_PACKED_DESC_F_USED);
    std::vector<std::uint64_t> posted;  // what each descriptor was, but for its flags of this round
    for (std::uint16_t i = 0; i < entries; ++i) {
      posted.push_back(read_once(*driver_.packed_words(i)) & ~(kAvail | kUsed));
    }
    say_ready();
    bool wrap = true;
    for (std::uint16_t first = 0; !stop_;) {
      const std::uint64_t both = wrap ? kAvail | kUsed : 0;
      const auto last = static_cast<std::uint16_t>(first + kStep - 1);
      while (!stop_ && (read_once(*driver_.packed_words(last)) & (kAvail | kUsed)) != both) {
      }
      for (std::uint16_t at = first; at <= last; ++at) {
        write_once(*driver_.packed_words(at), posted[at] | (wrap ? kUsed : kAvail),
                   std::memory_order_release);
      }
      first = static_cast<std::uint16_t>(first + kStep);
      if (first == entries) {
        first = 0;
        wrap = !wrap;
      }
    }
  }

  MockDriver& driver_;
  std::atomic<bool> ready_{false}, stop_{false};
  std::thread thread_;
};

TEST_P(Malicious_Driver, RefillingBetweenAnyTwoReadsDoesNotKeepAWorker) {
  Variant variant = GetParam();
  if ((variant.features & kIndirectDesc) == 0) {
    GTEST_SKIP() << "buffers that take long to look at need indirect tables";
  }
  variant.entries = 1024;
  variant.features &= ~kInOrder;
  Bench bench(options_of(variant), Bench::default_policy(), {WorkerId{0}}, Bench::Receive::kEmpty);
  MockDriver& rx = bench.guest.rx();
  std::vector<Segment> table(64, Segment{.address = MockMemory::kBase, .bytes = 1});
  table.back().bytes = 0;
  while (rx.post(table, 0, MockDriver::Shape::kIndirect)) {
  }
  std::promise<void> ended;
  std::future<void> turns = ended.get_future();
  {
    std::optional<Refiller> refiller(std::in_place, rx);
    std::thread worker([&] {
      const Bytes frame = guest_frame(1, 60);
      for (int turn = 0; turn < 100; ++turn) {
        bench.deliver(frame);
        bench.lane().poll();
      }
      ended.set_value();
    });
    EXPECT_EQ(turns.wait_for(std::chrono::seconds(20)), std::future_status::ready) << "a turn has no end";
    refiller.reset();  // a worker that is still in there comes out
    worker.join();
  }
  EXPECT_LE(bad_buffers(bench), 100u * kWastedPerTurn);
  EXPECT_EQ(bench.counter("rx_packets"), 0u);
}

// A table is walked to its last descriptor, which is a lie: the buffer is bad, and took as long as any.
TEST_P(Malicious_Driver, TablesThatEndInALieAreWalkedWithinTheTurnsBudget) {
  if ((GetParam().features & kIndirectDesc) == 0) {
    GTEST_SKIP() << "no indirect tables in " << GetParam().name;
  }
  Variant variant = GetParam();
  variant.entries = 1024;
  variant.features &= ~kInOrder;
  for (const Direction direction : {Direction::kToGuest, Direction::kFromGuest}) {
    MockMemory memory({{MockMemory::kBase, 64 << 20}});
    MockDriver driver(memory, {.format = variant.format,
                               .entries = variant.entries,
                               .features = variant.features,
                               .direction = direction});
    std::vector<Segment> table(64, Segment{.address = memory.allocate(64), .bytes = 64});
    table.back().bytes = 0;
    while (driver.post(table, 0, MockDriver::Shape::kIndirect)) {
    }
    RingCounters counters;
    SegmentStore store;
    std::array<GuestBuffer, kBurst> buffers;
    auto take_all = [&](auto&& ring) {
      std::uint32_t all = 0;
      while (const std::uint32_t count = ring.take(buffers, store)) {
        ring.give_back(std::span(buffers).first(count));
        all += count;
        store.used = 0;
      }
      return all;
    };
    const std::uint32_t taken =
        variant.format == VringFormat::kSplit
            ? take_all(SplitRing(driver.setup(), direction, *memory.table(), counters))
            : take_all(PackedRing(driver.setup(), direction, *memory.table(), counters));
    EXPECT_LE(taken, kWalkedPerTurn / table.size());
    EXPECT_GT(taken, 0u);
    EXPECT_GE(store.walk_left, kLongestChain - table.size());
  }
}

TEST_P(Malicious_Driver, TransmitBuffersThatTheBudgetLeavesBehindAreTheNextTurns) {
  if ((GetParam().features & kIndirectDesc) == 0) {
    GTEST_SKIP() << "no indirect tables in " << GetParam().name;
  }
  Variant variant = GetParam();
  variant.entries = 1024;
  Bench bench(options_of(variant));
  MockDriver& tx = bench.guest.tx();
  std::vector<Segment> table(64, Segment{.address = bench.guest.tx_slot(0), .bytes = 64});
  table.back().bytes = 0;
  std::uint64_t posted = 0;
  while (tx.post(table, 0, MockDriver::Shape::kIndirect)) {
    ++posted;
  }
  std::array<Packet, kBurst> packets;
  std::uint64_t before = 0;
  for (std::uint64_t turn = 0; before < posted; ++turn) {
    ASSERT_LT(turn, posted) << "buffers were left behind";
    ASSERT_EQ(burst_of(bench.lane(), packets), 0u);
    const std::uint64_t now = bad_buffers(bench);
    EXPECT_LE(now - before, kBurst);
    before = now;
    EXPECT_TRUE(bench.lane().poll() >= kBurst || now == posted) << "the worker would rest with work left";
  }
}

TEST(Malicious_BurstLock, WhoWaitsForAHolderThatDoesNotComeOutGivesUp) {
  BurstLock lock;
  const BurstLock::Guard holder(lock, true);
  ASSERT_TRUE(holder);
  EXPECT_FALSE(BurstLock::Guard(lock, true));
  EXPECT_TRUE(BurstLock::Guard(lock, false)) << "a queue that one worker fills needs no lock";
}

}  // namespace
}  // namespace sluice::test
