#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <limits>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "ring/spsc.h"
#include "test/support/checked_threads.h"

namespace sluice {
namespace {

// Both ends of a ring over plain memory of this process.
template <typename Entry>
struct Pair {
  explicit Pair(std::uint32_t size) : entries(std::make_unique<Entry[]>(size)) {
    producer = {&producer_word, entries.get(), &consumer_word, size};
    consumer = {&consumer_word, entries.get(), &producer_word, size};
  }
  sluice_ring_producer producer_word{};
  sluice_ring_consumer consumer_word{};
  std::unique_ptr<Entry[]> entries;
  RingProducer<Entry> producer;
  RingConsumer<Entry> consumer;
};

// Brings both indices `count` entries on, without writing one.
template <typename Entry>
void skip(Pair<Entry>& ring, std::uint64_t count) {
  while (count > 0) {
    auto step = static_cast<std::uint32_t>(std::min<std::uint64_t>(count, ring.producer.size()));
    ASSERT_EQ(ring.producer.reserve(step), step);
    ring.producer.submit(step);
    ASSERT_EQ(ring.consumer.peek(step), step);
    ring.consumer.release(step);
    count -= step;
  }
}

// Random reserves, submits, peeks and releases against a deque.
void walk(Pair<std::uint64_t>& ring, std::mt19937& random, int steps, std::uint64_t& next) {
  std::deque<std::uint64_t> model;
  std::uniform_int_distribution<std::uint32_t> amount(0, ring.producer.size() + 2);
  for (int step = 0; step < steps; ++step) {
    std::uint32_t wanted = amount(random);
    if (random() % 2 == 0) {
      auto free = static_cast<std::uint32_t>(ring.producer.size() - model.size());
      std::uint32_t got = ring.producer.reserve(wanted);
      ASSERT_EQ(got, std::min(wanted, free));
      std::uint32_t publish = static_cast<std::uint32_t>(random() % (got + 1u));
      for (std::uint32_t i = 0; i < publish; ++i) {
        ring.producer.entry(i) = next;
        model.push_back(next++);
      }
      ring.producer.submit(publish);
    } else {
      std::uint32_t got = ring.consumer.peek(wanted);
      ASSERT_EQ(got, std::min<std::size_t>(wanted, model.size()));
      for (std::uint32_t i = 0; i < got; ++i) {
        ASSERT_EQ(ring.consumer.read(i), model[i]);
      }
      std::uint32_t release = static_cast<std::uint32_t>(random() % (got + 1u));
      ring.consumer.release(release);
      model.erase(model.begin(), model.begin() + release);
    }
    ASSERT_EQ(ring.producer.in_ring(), model.size());
  }
  ASSERT_EQ(ring.consumer.peek(ring.consumer.size()), model.size());
  ring.consumer.release(static_cast<std::uint32_t>(model.size()));
}

TEST(Model_Ring, BehavesAsABoundedQueueOnARandomWalk) {
  std::mt19937 random(7);
  for (std::uint32_t size : {1u, 2u, 8u, 64u, 1024u}) {
    Pair<std::uint64_t> ring(size);
    std::uint64_t next = 0;
    walk(ring, random, 5000, next);
    EXPECT_EQ(ring.producer.faults() + ring.consumer.faults(), 0u);
  }
}

TEST(Model_Ring, BehavesTheSameWhereTheIndicesWrapAt32Bits) {
  std::mt19937 random(8);
  Pair<std::uint64_t> ring(1u << 16);
  skip(ring, (std::uint64_t{1} << 32) - 1000);
  ASSERT_GT(ring.producer.produced(), 0xffff'0000u);
  std::uint64_t next = 0;
  walk(ring, random, 200, next);
  EXPECT_LT(ring.producer.produced(), 0xffff'0000u) << "the walk has passed 2^32";
  EXPECT_EQ(ring.producer.faults() + ring.consumer.faults(), 0u);
}

TEST(Ring, ReadsThePeersIndexOnlyWhenItsLastKnownValueDoesNotSuffice) {
  Pair<std::uint32_t> ring(8);
  ring.producer.submit(ring.producer.reserve(4));
  ASSERT_EQ(ring.consumer.peek(2), 2u);
  // From here a look would be counted as a fault.
  ring.producer_word.producer = 0x8000'0000;
  EXPECT_EQ(ring.consumer.peek(4), 4u);
  EXPECT_EQ(ring.consumer.faults(), 0u);
  EXPECT_EQ(ring.consumer.peek(5), 4u);
  EXPECT_EQ(ring.consumer.faults(), 1u);
}

const std::uint32_t kJumps[] = {1, 2, 7, 8, 9, 100, 0x7fff'ffff, 0x8000'0000, 0xffff'fff0, 0xffff'ffff};

TEST(Malicious_Ring, AProducersImpossibleIndexIsNothingNewAndCounted) {
  for (std::uint32_t start : {0u, 3u, 0xffff'fffcu}) {
    for (std::uint32_t jump : kJumps) {
      Pair<std::uint8_t> ring(1u << 16);
      skip(ring, start);
      ring.producer.submit(ring.producer.reserve(5));
      ASSERT_EQ(ring.consumer.peek(8), 5u);  // confirmed: 5 are there, so less than 5 is going back
      std::uint32_t index = start + 5 + jump;
      bool possible = index - start >= 5 && index - start <= ring.consumer.size();
      write_once(ring.producer_word.producer, index);
      std::uint64_t before = ring.consumer.faults();
      std::uint32_t got = ring.consumer.peek(1u << 16);
      if (possible) {
        EXPECT_EQ(got, 5 + jump);
        EXPECT_EQ(ring.consumer.faults(), before);
      } else {
        EXPECT_EQ(got, 5u) << "what was there before stays";
        EXPECT_EQ(ring.consumer.faults(), before + 1);
      }
    }
  }
}

TEST(Malicious_Ring, AConsumersImpossibleIndexGivesNoRoomAndIsCounted) {
  for (std::uint32_t start : {0u, 3u, 0xffff'fffcu}) {
    for (std::uint32_t jump : kJumps) {
      Pair<std::uint8_t> ring(1u << 16);
      skip(ring, start);
      const std::uint32_t size = ring.producer.size();
      ring.producer.submit(ring.producer.reserve(20));
      ASSERT_EQ(ring.consumer.peek(10), 10u);
      ring.consumer.release(10);
      ASSERT_EQ(ring.producer.in_ring(), 10u);
      std::uint32_t index = start + 10 + jump;
      bool possible = index - (start + 10) <= 10;
      write_once(ring.consumer_word.consumer, index);
      std::uint64_t before = ring.producer.faults();
      std::uint32_t free = ring.producer.reserve(size);
      if (possible) {
        EXPECT_EQ(free, size - 10 + jump);
        EXPECT_EQ(ring.producer.faults(), before);
      } else {
        EXPECT_EQ(free, size - 10);
        EXPECT_EQ(ring.producer.faults(), before + 1);
      }
    }
  }
}

TEST(Malicious_Ring, SurvivesGarbageInEveryWordAtEveryMoment) {
  std::mt19937 random(9);
  Pair<std::uint64_t> ring(64);
  for (int i = 0; i < 200'000; ++i) {
    // The peer of the moment writes its whole line, garbage or something near the truth.
    std::uint32_t word = random() % 3 == 0
                             ? static_cast<std::uint32_t>(random())
                             : ring.producer.produced() + static_cast<std::uint32_t>(random() % 130) - 65;
    if (i % 2 == 0) {
      std::uint32_t truth = ring.consumer_word.consumer;
      ring.consumer_word = {.consumer = word, .need_wakeup = word};
      std::uint32_t room = ring.producer.reserve(static_cast<std::uint32_t>(random()));
      ASSERT_LE(room, 64u);
      ring.producer.submit(room == 0 ? 0 : static_cast<std::uint32_t>(random() % (room + 1)));
      (void)ring.producer.peer_needs_wakeup();
      ASSERT_LE(ring.producer.in_ring(), 64u);
      ring.consumer_word = {.consumer = truth};
    } else {
      std::uint32_t truth = ring.producer_word.producer;
      ring.producer_word.producer = word;
      std::uint32_t got = ring.consumer.peek(static_cast<std::uint32_t>(random()));
      ASSERT_LE(got, 64u);
      ring.consumer.release(got == 0 ? 0 : static_cast<std::uint32_t>(random() % (got + 1)));
      ring.producer_word.producer = truth;
    }
  }
  EXPECT_GT(ring.producer.faults(), 0u);
  EXPECT_GT(ring.consumer.faults(), 0u);
}

TEST(Malicious_Ring, AGarbageIndexDoesNotKeepTheConsumerAwake) {
  Pair<std::uint32_t> ring(8);
  ring.producer_word.producer = 1000;
  EXPECT_FALSE(ring.consumer.prepare_sleep());
  EXPECT_EQ(ring.consumer.faults(), 1u);
  EXPECT_EQ(ring.consumer_word.need_wakeup, 1u);
}

TEST(Ring, WhoGoesToSleepLooksAgainAfterAsking) {
  Pair<std::uint32_t> ring(8);
  EXPECT_FALSE(ring.consumer.prepare_sleep());
  EXPECT_TRUE(ring.producer.peer_needs_wakeup());
  ring.consumer.cancel_sleep();
  EXPECT_FALSE(ring.producer.peer_needs_wakeup());
  ring.producer.submit(ring.producer.reserve(1));
  EXPECT_TRUE(ring.consumer.prepare_sleep());
  EXPECT_FALSE(ring.producer.peer_needs_wakeup()) << "there is work: no kick is asked for";
}

// The producer stops now and then, so the consumer sleeps often; without a deadline a lost wake-up would be a
// hang.
TEST(Ring, NeverLosesAWakeUp) {
  constexpr std::uint64_t kEntries = test::kThreadsAreChecked ? 30'000 : 300'000;
  Pair<std::uint64_t> ring(16);
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  std::atomic<bool> lost{false};
  std::uint64_t sleeps = 0;
  std::thread producer([&] {
    for (std::uint64_t value = 0; value < kEntries && !lost;) {
      if (ring.producer.reserve(1) == 0) {
        std::this_thread::yield();
        continue;
      }
      ring.producer.entry(0) = value++;
      ring.producer.submit(1);
      if (ring.producer.peer_needs_wakeup()) {
        ::eventfd_write(wake.get(), 1);
      }
    }
  });
  std::uint64_t expected = 0;
  while (expected < kEntries) {
    std::uint32_t count = ring.consumer.peek(16);
    for (std::uint32_t i = 0; i < count; ++i) {
      ASSERT_EQ(ring.consumer.read(i), expected++);
    }
    ring.consumer.release(count);
    if (count == 0 && !ring.consumer.prepare_sleep()) {
      ++sleeps;
      pollfd event{.fd = wake.get(), .events = POLLIN, .revents = 0};
      if (::poll(&event, 1, 10'000) == 0) {
        lost = true;  // nobody sleeps 10 s with a producer that runs
        break;
      }
      eventfd_t kicks;
      ::eventfd_read(wake.get(), &kicks);
      ring.consumer.cancel_sleep();
    }
  }
  producer.join();
  EXPECT_FALSE(lost) << "after " << expected << " entries";
  EXPECT_EQ(expected, kEntries);
  EXPECT_GT(sleeps, 0u);
}

// What the two processes exchange: every word says which entry it belongs to, so a torn or a stale one shows.
struct Wide {
  std::uint64_t words[4];
};

struct TwoSegments {
  static constexpr std::uint32_t kSize = 256;
  static constexpr std::size_t kBytes = 64 + kSize * sizeof(Wide);
  UniqueFd producers{::memfd_create("ring-test-producer", MFD_CLOEXEC)};
  UniqueFd consumers{::memfd_create("ring-test-consumer", MFD_CLOEXEC)};
  TwoSegments() {
    EXPECT_EQ(::ftruncate(producers.get(), kBytes), 0);
    EXPECT_EQ(::ftruncate(consumers.get(), 64), 0);
  }
};

int produce(const TwoSegments& segments, std::uint64_t count) {
  auto own = Mapping::map(segments.producers.get(), TwoSegments::kBytes, PROT_READ | PROT_WRITE);
  auto peer = Mapping::map(segments.consumers.get(), 64, PROT_READ);
  if (!own || !peer) {
    return 2;
  }
  RingProducer<Wide> ring(reinterpret_cast<sluice_ring_producer*>(own->data()),
                          reinterpret_cast<Wide*>(own->data() + 64),
                          reinterpret_cast<const sluice_ring_consumer*>(peer->data()), TwoSegments::kSize);
  for (std::uint64_t next = 0; next < count;) {
    auto wanted = static_cast<std::uint32_t>(std::min<std::uint64_t>(1 + next % 64, count - next));
    std::uint32_t room = ring.reserve(wanted);
    for (std::uint32_t i = 0; i < room; ++i, ++next) {
      ring.entry(i) = {{next, ~next, next * 3, next + 7}};
    }
    ring.submit(room);
    if (room == 0) {
      std::this_thread::yield();
    }
  }
  return ring.faults() == 0 ? 0 : 3;
}

TEST(Ring, LosesAndTearsNothingBetweenTwoProcessesThatMapEachOthersSegmentReadOnly) {
  constexpr std::uint64_t kEntries = 3'000'000;
  TwoSegments segments;
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::_exit(produce(segments, kEntries));
  }
  auto own = Mapping::map(segments.consumers.get(), 64, PROT_READ | PROT_WRITE);
  auto peer = Mapping::map(segments.producers.get(), TwoSegments::kBytes, PROT_READ);
  ASSERT_TRUE(own && peer);
  RingConsumer<Wide> ring(reinterpret_cast<sluice_ring_consumer*>(own->data()),
                          reinterpret_cast<const Wide*>(peer->data() + 64),
                          reinterpret_cast<const sluice_ring_producer*>(peer->data()), TwoSegments::kSize);
  std::uint64_t expected = 0, bad = 0;
  std::uint64_t deadline = now_ns() + 60'000'000'000;
  while (expected < kEntries && now_ns() < deadline) {
    std::uint32_t count = ring.peek(64);
    for (std::uint32_t i = 0; i < count; ++i, ++expected) {
      Wide got = ring.read(i);
      bad += got.words[0] != expected || got.words[1] != ~expected || got.words[2] != expected * 3 ||
             got.words[3] != expected + 7;
    }
    ring.release(count);
    if (count == 0) {
      std::this_thread::yield();
    }
  }
  EXPECT_EQ(expected, kEntries);
  EXPECT_EQ(bad, 0u);
  EXPECT_EQ(ring.faults(), 0u);
  if (expected != kEntries) {
    ::kill(child, SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace sluice
