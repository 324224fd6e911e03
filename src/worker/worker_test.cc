#include "worker/worker.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "port/fake/checked.h"
#include "port/fake/fake.h"
#include "port/fake/lane_conformance.h"
#include "worker/count_allocations.h"
#include "worker/test_running.h"

namespace sluice {
namespace {

constexpr PortId kNic{2}, kApp{3};
using Idle = WorkerOptions::Idle;

const Bytes kFrame = numbered_frame(1, 60);

TEST(Worker, RunsACallOnItsOwnThreadAndWaitsForItsEnd) {
  Running worker;
  std::thread::id ran_on;
  char name[16] = "";
  worker->call([&](Worker::Tables&) {
    ran_on = std::this_thread::get_id();
    ::pthread_getname_np(::pthread_self(), name, sizeof name);
  });
  EXPECT_NE(ran_on, std::thread::id{});
  EXPECT_NE(ran_on, std::this_thread::get_id());
  EXPECT_STREQ(name, "sluice-w0");
}

TEST(Worker, TakesNoSignalsAndSleepsToTheNanosecond) {
  Running worker;
  worker->call([](Worker::Tables&) {
    sigset_t blocked;
    ::pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGPIPE, SIGCHLD}) {
      EXPECT_EQ(sigismember(&blocked, signal), 1) << signal;
    }
    EXPECT_EQ(sigismember(&blocked, SIGSEGV), 0);
    EXPECT_EQ(::prctl(PR_GET_TIMERSLACK, 0ul, 0ul, 0ul, 0ul), 1);
  });
  sigset_t here;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &here);
  EXPECT_EQ(sigismember(&here, SIGTERM), 0) << "the starter's own mask is as before";
}

TEST(Worker, RunsWhereItIsPinned) {
  const std::uint32_t cpu = first_cpu();
  auto worker = Worker::start({.cpu = cpu}).value();
  worker->call([cpu](Worker::Tables&) { EXPECT_EQ(::sched_getcpu(), static_cast<int>(cpu)); });
}

TEST(Worker, SaysWhichCpuIsMissingAndWhichAreThere) {
  for (std::uint32_t cpu : {1000u, 5'000'000u}) {
    auto worker = Worker::start({.id = WorkerId{3}, .cpu = cpu});
    ASSERT_FALSE(worker);
    EXPECT_NE(worker.error().message.find(fmt::format("worker 3: cannot run on CPU {}: online are 0", cpu)),
              std::string::npos)
        << worker.error().message;
  }
}

TEST(Worker, RefusesANapThatIsNoNap) {
  EXPECT_EQ(Worker::start({.latency_us = 0}).error().message, "worker 0: latency_us is 0, must be 1 .. 1000");
  EXPECT_FALSE(Worker::start({.latency_us = 1001}));
}

TEST(Worker, KeepsNoCoreAwakeWithoutACpu) {
  EXPECT_EQ(Worker::start({.idle = Idle::kAwake}).error().message, "worker 0: needs a CPU to keep it awake");
}

TEST(Worker, StopsWhileItIsIdleAndWhileItSpins) {
  for (Idle idle : {Idle::kAdaptive, Idle::kAwake, Idle::kSpin}) {
    for (int i = 0; i < 50; ++i) {
      ASSERT_TRUE(Worker::start({.cpu = first_cpu(), .idle = idle}));
    }
  }
}

TEST(Worker, MustNotStopWithTablesInUse) {
  EXPECT_DEATH(
      {
        FakeArena arena(DomainId::kHost, 8);
        FakeQueue queue(arena, {});
        auto worker = Worker::start({}).value();
        worker->call([&](Worker::Tables& tables) { tables.queues.push_back(&queue); });
        worker.reset();
      },
      "worker 0 stops with 1 queues, 0 lanes, 0 ports");
}

TEST(Worker, WouldDeadlockOnACallFromACall) {
  EXPECT_DEATH(
      {
        auto worker = Worker::start({}).value();
        worker->call([&](Worker::Tables&) { worker->call([](Worker::Tables&) {}); });
      },
      "worker 0 would wait for itself");
}

TEST(Worker, RunsTheCallsOfManyThreadsOneAtATime) {
  for (Idle idle : {Idle::kAdaptive, Idle::kSpin}) {
    Running worker(idle);
    int plain = 0;  // not atomic: only ever touched on the worker's thread
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i) {
      callers.emplace_back([&] {
        for (int n = 0; n < 500; ++n) {
          int before = 0, after = 0;
          worker->call([&](Worker::Tables&) {
            before = plain;
            after = ++plain;
          });
          ASSERT_EQ(after, before + 1);
        }
      });
    }
    for (std::thread& caller : callers) {
      caller.join();
    }
    EXPECT_EQ(plain, 2000);
    EXPECT_EQ(counters(*worker)["calls"], 2000u);
  }
}

TEST(Worker, CarriesFramesFromTheWireToAnAppByCopyAndBackOut) {
  FakeArena pages(DomainId::kHost, 64);
  FakeQueue nic(pages, {});
  FakeLane app(nullptr, {.domain = domain_of(kApp)});
  PageBook book;
  CheckedLane checked_nic(nic, book);
  CheckedLane checked_app(app, book);
  Running worker;
  worker.add_queue(kNic, checked_nic);
  worker.add(kApp, checked_app);

  for (std::uint32_t i = 0; i < 1000; ++i) {
    const Bytes frame = numbered_frame(i, 60 + i % 1000);
    ASSERT_TRUE(nic.arrive(kApp, frame));
    std::optional<FakeLane::Frame> got;
    ASSERT_TRUE(wait_until([&] { return (got = app.take()).has_value(); })) << i;
    EXPECT_EQ(got->bytes, frame);
    EXPECT_EQ(got->page, PageIndex::kNone);

    ASSERT_TRUE(app.send(kNic, frame));
    std::optional<Bytes> sent;
    ASSERT_TRUE(wait_until([&] { return (sent = nic.next_sent()).has_value(); })) << i;
    EXPECT_EQ(*sent, frame);
  }
  worker.end_turn();
  EXPECT_EQ(counters(*worker)["packets"], 2000u);
  EXPECT_EQ(counters(*worker)["tx_packets"], 1000u);
  EXPECT_EQ(app.copied.value(), 1000u);
  EXPECT_EQ(nic.copied.value(), 1000u);
  EXPECT_EQ(pages.out(), 0u);
}

TEST(Worker, HandsPagesOverWhereTheDomainOwnsTheQueue) {
  FakeArena pages(domain_of(kApp), 64);
  FakeQueue nic(pages, {});
  FakeLane app(&pages, {.domain = domain_of(kApp)});
  PageBook book;
  CheckedLane checked_nic(nic, book);
  CheckedLane checked_app(app, book);
  Running worker;
  worker.add_queue(kNic, checked_nic);
  worker.add(kApp, checked_app);
  for (std::uint32_t i = 0; i < 1000; ++i) {
    const Bytes frame = numbered_frame(i, 60);
    ASSERT_TRUE(nic.arrive(kApp, frame));
    std::optional<FakeLane::Frame> got;
    ASSERT_TRUE(wait_until([&] { return (got = app.take()).has_value(); })) << i;
    EXPECT_EQ(got->bytes, frame);
    ASSERT_NE(got->page, PageIndex::kNone);
    ASSERT_TRUE(app.give_back(got->page));
  }
  worker.end_turn();
  EXPECT_EQ(app.zero_copy.value(), 1000u);
  EXPECT_EQ(app.copied.value(), 0u);
  EXPECT_TRUE(wait_until([&] { return pages.out() == 0; }));
}

TEST(Worker, CopiesOnceFromOneAppToAnother) {
  FakeLane a(nullptr, {.domain = domain_of(PortId{3})}), b(nullptr, {.domain = domain_of(PortId{4})});
  Running worker;
  worker.add(PortId{3}, a);
  worker.add(PortId{4}, b);
  const Bytes frame = numbered_frame(9, 700);
  ASSERT_TRUE(a.send(PortId{4}, frame));
  std::optional<FakeLane::Frame> got;
  ASSERT_TRUE(wait_until([&] { return (got = b.take()).has_value(); }));
  EXPECT_EQ(got->bytes, frame);
  worker.end_turn();
  EXPECT_EQ(b.copied.value(), 1u);
}

TEST(Worker, CountsAndRecyclesWhatIsForNobody) {
  FakeArena pages(DomainId::kHost, 64);
  FakeQueue nic(pages, {});
  Running worker;
  worker.add_queue(kNic, nic);
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(nic.arrive(kApp, kFrame));
  }
  EXPECT_TRUE(wait_until([&] { return worker->no_reader(kApp) == 100 && pages.out() == 0; }));
  worker.end_turn();
  EXPECT_EQ(counters(*worker)["drop_no_reader"], 100u);
}

TEST(Worker, SleepsWhenNothingComesAndWakesForTheNic) {
  FakeArena pages(DomainId::kHost, 64);
  FakeQueue nic(pages, {});
  Running worker;
  worker.add_queue(kNic, nic);
  for (std::uint64_t i = 1; i <= 20; ++i) {
    ASSERT_TRUE(worker.sleeps());
    ASSERT_TRUE(nic.arrive(kApp, kFrame));
    ASSERT_TRUE(wait_until([&] { return worker->no_reader(kApp) == i; }));
  }
}

TEST(Worker, SleepsWhenNothingComesAndWakesForAnAppThatSendsOrGivesBack) {
  FakeArena pages(domain_of(kApp), 64);
  FakeQueue nic(pages, {});
  FakeLane app(&pages, {.domain = domain_of(kApp)});
  Running worker;
  worker.add_queue(kNic, nic);
  worker.add(kApp, app);
  for (std::uint64_t i = 1; i <= 20; ++i) {
    ASSERT_TRUE(worker.sleeps());
    ASSERT_TRUE(app.send(kNic, kFrame));
    ASSERT_TRUE(wait_until([&] { return nic.next_sent().has_value(); }));

    ASSERT_TRUE(nic.arrive(kApp, kFrame));
    std::optional<FakeLane::Frame> got;
    ASSERT_TRUE(wait_until([&] { return (got = app.take()).has_value(); }));
    ASSERT_TRUE(worker.sleeps());
    EXPECT_EQ(pages.out(), 1u);
    ASSERT_TRUE(app.give_back(got->page));
    ASSERT_TRUE(wait_until([&] { return pages.out() == 0; }));
  }
}

TEST(Worker, SleepsWhenNothingComesAndWakesForACall) {
  Running worker;
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(worker.sleeps());
    bool ran = false;
    worker->call([&](Worker::Tables&) { ran = true; });
    EXPECT_TRUE(ran);
  }
}

TEST(Worker, WatchesOnlyTheLanesOfItsPresentTables) {
  Running worker;
  for (int i = 0; i < 20; ++i) {
    auto app = std::make_unique<FakeLane>(nullptr, FakeLane::Options{.domain = domain_of(kApp)});
    worker.add(kApp, *app);
    ASSERT_TRUE(worker.sleeps());
    worker->call([](Worker::Tables& tables) { tables = {}; });
    app.reset();
    FakeLane other(nullptr, {.domain = domain_of(kApp)});  // most likely with the same descriptor number
    worker.add(kApp, other);
    ASSERT_TRUE(worker.sleeps());
    ASSERT_TRUE(other.send(kApp, kFrame));
    ASSERT_TRUE(wait_until([&] { return other.take().has_value(); }));
    worker->call([](Worker::Tables& tables) { tables = {}; });
  }
}

// Frames with silences of every length between them, so that each lands at another point of nap, last look
// and sleep. A lost wake-up is a frame that never arrives.
TEST(Worker, LosesNoWakeUp) {
  FakeArena pages(DomainId::kHost, 64);
  FakeQueue nic(pages, {});
  FakeLane app(nullptr, {.domain = domain_of(kApp)});
  Running worker;
  worker.add_queue(kNic, nic);
  worker.add(kApp, app);
  std::mt19937 random(11);
  for (int i = 0; i < 5000; ++i) {
    for (auto spin = random() % 3000; spin > 0; --spin) {
      asm volatile("" : : : "memory");
    }
    if (i % 2 == 0) {
      ASSERT_TRUE(nic.arrive(kApp, kFrame));
      ASSERT_TRUE(wait_until([&] { return app.take().has_value(); })) << "frame " << i;
    } else {
      ASSERT_TRUE(app.send(kNic, kFrame));
      ASSERT_TRUE(wait_until([&] { return nic.next_sent().has_value(); })) << "frame " << i;
    }
  }
  auto now = counters(*worker);
  EXPECT_GT(now["sleeps"] + now["sleeps_refused"], 0u);
}

int epoll_sets() {
  int sets = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    sets += std::filesystem::read_symlink(entry, gone) == "anon_inode:[eventpoll]" ? 1 : 0;
  }
  return sets;
}

// Who is watched pays for each wake-up that nobody waits for.
TEST(Worker, WatchesNoDescriptorsWhileItOnlyNapsAndAllWhenItSleepsAgain) {
  FakeArena pages(DomainId::kHost, 64);
  FakeQueue nic(pages, {});
  FakeLane app(nullptr, {.domain = domain_of(kApp)});
  const int before = epoll_sets();
  Running worker;
  worker.add_queue(kNic, nic);
  worker.add(kApp, app);
  for (int time = 0; time < 2; ++time) {
    ASSERT_TRUE(worker.sleeps());
    EXPECT_EQ(epoll_sets(), before + 1);
    const std::uint64_t naps = counters(*worker)["naps"];
    ASSERT_TRUE(wait_until([&] {
      for (int i = 0; i < 1000; ++i) {
        nic.arrive(kApp, kFrame);
        app.take();
      }
      return epoll_sets() == before;
    }));
    EXPECT_GE(counters(*worker)["naps"], naps + 64);
    while (app.take()) {
    }
  }
}

// Of the thread of that name (proc(5), stat): 'R' runs, or would if the core were free; 'S' sleeps.
char state_of_thread(const std::string& name) {
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream file(task.path() / "stat");
    std::string text;
    std::getline(file, text);
    if (const std::size_t at = text.find("(" + name + ") "); at != std::string::npos) {
      return text[at + name.size() + 3];
    }
  }
  return '?';
}

TEST(Worker, KeepsItsCoreAwakeWhileItNapsAndLetsItRestWhenItSleeps) {
  FakeArena pages(DomainId::kHost, 64);
  FakeQueue nic(pages, {});
  FakeLane app(nullptr, {.domain = domain_of(kApp)});
  Running worker(Idle::kAwake);
  worker.add_queue(kNic, nic);
  worker.add(kApp, app);
  for (int time = 0; time < 2; ++time) {
    ASSERT_TRUE(worker.sleeps());
    EXPECT_TRUE(wait_until([] { return state_of_thread("sluice-k0") == 'S'; }));
    const std::uint64_t kept_awake = counters(*worker)["kept_awake"];
    EXPECT_TRUE(wait_until([&] {
      for (int i = 0; i < 1000; ++i) {
        nic.arrive(kApp, kFrame);
        app.take();
      }
      return counters(*worker)["kept_awake"] > kept_awake && state_of_thread("sluice-k0") == 'R';
    }));
    while (app.take()) {
    }
  }
}

TEST(Worker, NeverSleepsWhenItSpins) {
  FakeArena pages(DomainId::kHost, 64);
  FakeQueue nic(pages, {});
  Running worker(Idle::kSpin);
  worker.add_queue(kNic, nic);
  ASSERT_TRUE(wait_until([&] { return counters(*worker)["turns"] > 10'000; }));
  ASSERT_TRUE(nic.arrive(kApp, kFrame));
  ASSERT_TRUE(wait_until([&] { return worker->no_reader(kApp) == 1; }));
  auto now = counters(*worker);
  EXPECT_EQ(now["naps"] + now["sleeps"] + now["sleeps_refused"] + now["wakeups"], 0u);
}

TEST(Worker, AllocatesNothingPerPacket) {
  if (!allocation_count()) {
    GTEST_SKIP() << "allocations cannot be counted under ThreadSanitizer";
  }
  FakeArena pages(DomainId::kHost, 256);
  FakeArena app_pages(domain_of(kApp), 8);
  FakeQueue nic(pages, {});
  FakeLane app(&app_pages, {.domain = domain_of(kApp)});
  Running worker;
  worker.add_queue(kNic, nic);
  worker.add(kApp, app);
  auto carry = [&](std::uint64_t packets) {
    const std::uint64_t until = worker->no_reader(PortId{9}) + packets;
    // Mixed bursts; nobody reads `app`, whose ring overflows.
    while (worker->no_reader(PortId{9}) < until) {
      nic.arrive(PortId{9}, kFrame);
      nic.arrive(kApp, kFrame);
      app.send(PortId{9}, kFrame);
    }
  };
  carry(1000);
  const std::uint64_t before = *allocation_count();
  carry(20'000);
  EXPECT_EQ(*allocation_count() - before, 0u);
  EXPECT_GT(app.drop_ring_full.value(), 0u);
}

TEST(Worker, StopsWhileItIsBusy) {
  for (Idle idle : {Idle::kAdaptive, Idle::kAwake, Idle::kSpin}) {
    FakeArena pages(DomainId::kHost, 256);
    FakeQueue nic(pages, {});
    std::atomic<bool> stop{false};
    std::thread wire([&] {
      while (!stop.load()) {
        nic.arrive(kApp, kFrame);
      }
    });
    {
      Running worker(idle);
      worker.add_queue(kNic, nic);
      EXPECT_TRUE(wait_until([&] { return worker->no_reader(kApp) > 1000; }));
    }
    stop.store(true);
    wire.join();
    EXPECT_EQ(pages.out(), 0u);
  }
}

TEST(Worker, Crash_PagesOfAnAbandonedLaneComeHome) {
  FakeArena pages(domain_of(kApp), 64);
  FakeQueue nic(pages, {});
  FakeLane app(&pages, {.domain = domain_of(kApp)});
  Running worker;
  worker.add_queue(kNic, nic);
  worker.add(kApp, app);
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(nic.arrive(kApp, kFrame));
  }
  ASSERT_TRUE(wait_until([&] { return app.waiting() == 20; }));
  EXPECT_EQ(pages.out(), 20u);
  app.abandon();
  EXPECT_TRUE(wait_until([&] { return pages.out() == 0; }));
}

// A peer that never runs out of frames, and whose lane always says there is more to do.
class EndlessLane final : public Lane {
 public:
  explicit EndlessLane(PortId to) : Lane(Capabilities{}), to_(to) {}
  void copy_in(const BurstInfo&, std::span<Packet>) override {}
  std::uint32_t burst(std::span<Packet> packets, BurstInfo&) override {
    for (Packet& packet : packets) {
      packet = Packet{.body = kFrame.data(), .body_bytes = 60, .port = to_};
    }
    most.set(std::max<std::uint64_t>(most.value(), packets.size()));
    return static_cast<std::uint32_t>(packets.size());
  }
  void done(std::span<const Packet> packets) override { sent.add(packets.size()); }
  std::uint32_t poll() override { return 0xffffffff; }
  int wake_fd() const override { return -1; }
  bool prepare_sleep() override { return true; }
  bool peer_is_behind() override { return behind; }
  Counter sent, most;
  bool behind = false;

 private:
  PortId to_;
};

TEST(Worker, Malicious_EndlessWorkOfOneLaneIsBoundedPerTurn) {  // D6
  FakeArena pages(DomainId::kHost, 64);
  FakeQueue nic(pages, {});
  FakeLane honest(nullptr, {.domain = domain_of(kApp)});
  EndlessLane hostile(PortId{9});
  Running worker;
  worker.add(PortId{8}, hostile);
  worker.add_queue(kNic, nic);
  worker.add(kApp, honest);
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(nic.arrive(kApp, kFrame));
    ASSERT_TRUE(wait_until([&] { return honest.take().has_value(); }));
    ASSERT_TRUE(honest.send(kNic, kFrame));
    ASSERT_TRUE(wait_until([&] { return nic.next_sent().has_value(); }));
    worker->call([](Worker::Tables&) {});
  }
  worker->call([&](Worker::Tables&) {
    auto now = counters(*worker);
    EXPECT_LE(hostile.sent.value(), now["turns"] * kBurst);
    EXPECT_EQ(hostile.most.value(), kBurst);
  });
}

// D6: work without end, and a peer that says in every turn that it cannot keep up.
TEST(Worker, Malicious_APeerThatIsAlwaysBehindCostsANapIn256Turns) {
  EndlessLane hostile(PortId{9});
  hostile.behind = true;
  Running worker;
  worker.add(PortId{8}, hostile);
  std::map<std::string, std::uint64_t> before;
  worker->call([&](Worker::Tables&) { before = counters(*worker); });
  EXPECT_TRUE(wait_until([&] { return counters(*worker)["yields"] >= 20; }));
  worker->call([&](Worker::Tables&) {
    auto now = counters(*worker);
    EXPECT_LE(now["yields"] * 256, now["turns"]);
    EXPECT_EQ(now["naps"] - before["naps"], now["yields"] - before["yields"]) << "there is always more to do";
  });
}

// Stops at its bytes in each of its first turns.
class LongFramesLane final : public Lane {
 public:
  static constexpr std::uint64_t kTurns = 1000;
  LongFramesLane() : Lane(Capabilities{}) {}
  void copy_in(const BurstInfo&, std::span<Packet>) override {}
  std::uint32_t burst(std::span<Packet> packets, BurstInfo& info) override {
    if (given.value() == kTurns) {
      return 0;
    }
    given.add(1);
    info.more = given.value() < kTurns;
    packets.front() = Packet{.body = kFrame.data(), .body_bytes = 60, .port = PortId::kDrop};
    return 1;
  }
  void done(std::span<const Packet>) override {}
  int wake_fd() const override { return -1; }
  bool prepare_sleep() override { return given.value() < kTurns; }
  Counter given;
};

TEST(Worker, DoesNotRestWhileASourceStopsAtItsBytes) {
  LongFramesLane lane;
  Running worker;
  std::map<std::string, std::uint64_t> before;
  worker->call([&](Worker::Tables& tables) {
    before = counters(*worker);
    tables.lanes.emplace_back(kApp, &lane);
  });
  ASSERT_TRUE(wait_until([&] { return lane.given.value() == LongFramesLane::kTurns; }));
  auto now = counters(*worker);
  std::uint64_t rests = 0;
  for (const char* name : {"spins", "naps", "sleeps", "sleeps_refused"}) {
    rests += now[name] - before[name];
  }
  EXPECT_LT(rests, LongFramesLane::kTurns / 2) << "some before it began, and after its end";
}

// Writes down what the worker says of a burst.
class InfoLane final : public Lane {
 public:
  InfoLane() : Lane(Capabilities{}) {}
  void copy_in(const BurstInfo& info, std::span<Packet>) override {
    last = info;
    got.add(1);
  }
  std::uint32_t burst(std::span<Packet>, BurstInfo&) override { return 0; }
  void done(std::span<const Packet>) override {}
  int wake_fd() const override { return -1; }
  bool prepare_sleep() override { return false; }
  BurstInfo last;
  Counter got;
};

TEST(Worker, SaysOfEachBurstWhoSentItWhenAndByWhichUplink) {
  FakeArena pages(DomainId::kHost, 8);
  FakeQueue nic(pages, {.nic = NicId{4}, .queue = QueueId{5}});
  FakeLane app(nullptr, {.domain = domain_of(kApp)});
  InfoLane sink;
  Running worker;
  worker.add_queue(kNic, nic);
  worker.add(kApp, app);
  worker.add(PortId{9}, sink);
  const std::uint64_t begin = now_ns();
  ASSERT_TRUE(app.send(PortId{9}, kFrame));
  ASSERT_TRUE(wait_until([&] { return sink.got.value() == 1; }));
  worker.end_turn();
  EXPECT_EQ(sink.last.port, kApp);
  EXPECT_EQ(sink.last.uplink, PortId{9});
  EXPECT_GE(sink.last.timestamp_ns, begin);
  EXPECT_LE(sink.last.timestamp_ns, now_ns());

  ASSERT_TRUE(nic.arrive(PortId{9}, kFrame));
  ASSERT_TRUE(wait_until([&] { return sink.got.value() == 2; }));
  worker.end_turn();
  EXPECT_EQ(sink.last.port, PortId::kKernel);
  EXPECT_EQ(sink.last.nic, NicId{4});
  EXPECT_EQ(sink.last.queue, QueueId{5});
  EXPECT_GE(sink.last.timestamp_ns, begin);
}

TEST(Worker, DoesNotYieldWhenItSpins) {
  EndlessLane behind(PortId{9});
  behind.behind = true;
  Running worker(Idle::kSpin);
  worker.add(PortId{8}, behind);
  EXPECT_TRUE(wait_until([&] { return counters(*worker)["turns"] > 2000; }));
  EXPECT_EQ(counters(*worker)["yields"], 0u);
  EXPECT_EQ(counters(*worker)["naps"], 0u);
}

// Two senders into one small ring: whoever is asked first gets all the room, so who is first must change.
TEST(Worker, Malicious_AGreedySenderDoesNotTakeAllTheRoomOfASharedDestination) {
  EndlessLane greedy(kApp);
  FakeLane modest(nullptr, {.domain = domain_of(PortId{7})});
  FakeLane sink(nullptr, {.domain = domain_of(kApp), .ring = 64});
  Running worker(Idle::kSpin);
  worker.add(PortId{6}, greedy);
  worker.add(PortId{7}, modest);
  worker.add(kApp, sink);
  const Bytes mark = numbered_frame(2, 99);
  bool arrived = false;
  EXPECT_TRUE(wait_until([&] {
    modest.send(kApp, mark);
    for (std::uint32_t n = sink.waiting(); n > 0; --n) {
      arrived |= sink.take()->bytes == mark;
    }
    return arrived;
  }));
}

// The descriptor fires again and again without any work behind it.
TEST(Worker, Malicious_WakingForNothingCostsATurnPerNap) {
  FakeLane app(nullptr, {.domain = domain_of(kApp)});
  Running worker;
  worker.add(kApp, app);
  ASSERT_TRUE(wait_until([&] {
    app.ring_for_nothing();
    return counters(*worker)["wakeups"] > 200;
  }));
  auto now = counters(*worker);
  EXPECT_GE(now["naps"] + 2, now["wakeups"]);
}

TEST(Worker, ServesManyLanesAndQueues) {
  constexpr std::uint16_t kLanes = 200;
  FakeArena pages(DomainId::kHost, 512);
  FakeQueue nic(pages, {.ring = 512}), second(pages, {.queue = QueueId{1}});
  std::vector<std::unique_ptr<FakeLane>> lanes;
  Running worker;
  worker.add_queue(kNic, nic);
  worker.add_queue(PortId{1000}, second);
  for (std::uint16_t i = 0; i < kLanes; ++i) {
    const PortId port{static_cast<std::uint16_t>(10 + i)};
    lanes.push_back(
        std::make_unique<FakeLane>(nullptr, FakeLane::Options{.domain = domain_of(port), .ring = 16}));
    worker.add(port, *lanes.back());
  }
  for (std::uint32_t round = 0; round < 5; ++round) {
    for (std::uint16_t i = 0; i < kLanes; ++i) {
      ASSERT_TRUE((i % 2 == 0 ? nic : second)
                      .arrive(PortId{static_cast<std::uint16_t>(10 + i)}, numbered_frame(i, 64)));
    }
    for (std::uint16_t i = 0; i < kLanes; ++i) {
      std::optional<FakeLane::Frame> got;
      ASSERT_TRUE(wait_until([&] { return (got = lanes[i]->take()).has_value(); })) << i;
      EXPECT_EQ(got->bytes, numbered_frame(i, 64));
    }
  }
  ASSERT_TRUE(worker.sleeps());
  for (std::uint16_t i = 0; i < kLanes; ++i) {
    ASSERT_TRUE(lanes[i]->send(kNic, numbered_frame(i, 64)));
  }
  std::uint32_t sent = 0;
  EXPECT_TRUE(wait_until([&] {
    while (nic.next_sent()) {
      ++sent;
    }
    return sent == kLanes;
  }));
}

}  // namespace
}  // namespace sluice
