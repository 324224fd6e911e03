#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <new>

#include "base/check.h"
#include "base/clock.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "base/token_bucket.h"
#include "base/untrusted.h"

namespace sluice {
namespace {

TEST(Check, PrintsTheValuesAndStops) {
  int index = 7;
  EXPECT_DEATH(SLUICE_CHECK(index < 4, "index {} of {}", index, 4), "index < 4: index 7 of 4");
  EXPECT_DEATH(SLUICE_CHECK(index == 0), "CHECK failed at .*: index == 0");
}

TEST(Error, OfASystemCallCarriesItsTextAndNumber) {
  Result<int> result = fail_errno(ENOENT, "cannot open {}", "/nowhere");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message, "cannot open /nowhere: No such file or directory");
  EXPECT_EQ(result.error().os_errno, ENOENT);
}

TEST(Error, ContextGoesInFront) {
  Result<int> result = with_context("nic eth1", Error{"no such device", ENODEV});
  EXPECT_EQ(result.error().message, "nic eth1: no such device");
  EXPECT_EQ(result.error().os_errno, ENODEV);
}

bool is_open(int fd) {
  return ::fcntl(fd, F_GETFD) >= 0;
}

TEST(UniqueFd, ClosesWhatItHoldsOnceAndOnlyOnce) {
  UniqueFd first(::memfd_create("test", MFD_CLOEXEC));
  int fd = first.get();
  {
    UniqueFd second = std::move(first);
    EXPECT_FALSE(first);
    EXPECT_TRUE(is_open(fd));
  }
  EXPECT_FALSE(is_open(fd));
}

TEST(UniqueFd, DuplicateSaysWhichDescriptorIsBad) {
  UniqueFd none;
  auto copy = none.duplicate();
  ASSERT_FALSE(copy);
  EXPECT_EQ(copy.error().message, "cannot duplicate descriptor -1: Bad file descriptor");
}

TEST(Mapping, SharesItsBytesWithEveryMappingOfTheFile) {
  UniqueFd file(::memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), 8192), 0);
  auto writer = Mapping::map(file.get(), 4096, PROT_READ | PROT_WRITE, 4096);
  auto reader = Mapping::map(file.get(), 8192, PROT_READ);
  ASSERT_TRUE(writer && reader);
  writer->data()[3] = std::byte{42};
  EXPECT_EQ(reader->data()[4096 + 3], std::byte{42});
}

TEST(Clock, NeverGoesBack) {
  auto earlier = now_ns();
  EXPECT_GE(now_ns(), earlier);
}

TEST(EventLoop, ACallbackMayRemoveADescriptorThatIsReadyInTheSameTurn) {
  auto loop = EventLoop::create().value();
  UniqueFd one(::eventfd(1, EFD_CLOEXEC)), two(::eventfd(1, EFD_CLOEXEC));
  int calls = 0;
  auto only_once = [&](std::uint32_t) {
    ++calls;
    loop->remove(one.get());
    loop->remove(two.get());
  };
  ASSERT_TRUE(loop->add(one.get(), EPOLLIN, only_once));
  ASSERT_TRUE(loop->add(two.get(), EPOLLIN, only_once));
  loop->turn(0);
  loop->turn(0);
  EXPECT_EQ(calls, 1);
}

TEST(EventLoop, ADescriptorThatIsAlwaysReadyKeepsNobodyWaiting) {
  auto loop = EventLoop::create().value();
  UniqueFd busy(::eventfd(1, EFD_CLOEXEC)), other(::eventfd(1, EFD_CLOEXEC));
  int busy_calls = 0, other_calls = 0, ticks = 0;
  ASSERT_TRUE(loop->add(busy.get(), EPOLLIN, [&](std::uint32_t) { ++busy_calls; }));
  ASSERT_TRUE(loop->add(other.get(), EPOLLIN, [&](std::uint32_t) { ++other_calls; }));
  loop->once(0, [&] { ++ticks; });
  for (int turn = 1; turn <= 10; ++turn) {
    loop->turn(-1);
    EXPECT_EQ(busy_calls, turn);
    EXPECT_EQ(other_calls, turn);
  }
  EXPECT_EQ(ticks, 1);
}

TEST(EventLoop, OfASilencedDescriptorNothingIsToldNotEvenItsEnd) {
  auto loop = EventLoop::create().value();
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd mine(ends[0]), peers(ends[1]);
  std::uint32_t told = 0;
  ASSERT_TRUE(loop->add(mine.get(), EPOLLIN, [&](std::uint32_t events) { told |= events; }));
  loop->silence(mine.get());
  peers.reset();
  loop->turn(0);
  EXPECT_EQ(told, 0u);
  ASSERT_TRUE(loop->modify(mine.get(), EPOLLIN));
  loop->turn(0);
  EXPECT_EQ(told, std::uint32_t{EPOLLIN | EPOLLHUP});
}

TEST(EventLoop, TakesSignalsThatAreBlocked) {
  sigset_t hup, before;
  ::sigemptyset(&hup);
  ::sigaddset(&hup, SIGHUP);
  ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &hup, &before), 0);
  auto loop = EventLoop::create().value();
  int heard = 0;
  ASSERT_TRUE(loop->add_signal(SIGHUP, [&] { ++heard; }));
  ASSERT_EQ(::raise(SIGHUP), 0);
  loop->turn(0);
  EXPECT_EQ(heard, 1);
  loop.reset();
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST(EventLoop, TimersRepeatUntilTheyAreCancelledAlsoByThemselves) {
  auto loop = EventLoop::create().value();
  int ticks = 0;
  EventLoop::TimerId timer = loop->every(1'000'000, [&] {
    if (++ticks == 3) {
      loop->cancel(timer);
      loop->once(1'000'000, [&] { loop->stop(); });
    }
  });
  loop->run();
  EXPECT_EQ(ticks, 3);
}

TEST(EventLoop, ACallbackWithoutMemoryEndsItsSourceAndNothingElse) {
  auto loop = EventLoop::create().value();
  UniqueFd bad(::eventfd(1, EFD_CLOEXEC)), good(::eventfd(1, EFD_CLOEXEC));
  int ended = 0, served = 0;
  ASSERT_TRUE(loop->add(
      bad.get(), EPOLLIN, [](std::uint32_t) { throw std::bad_alloc(); },
      [&] {
        ++ended;
        loop->remove(bad.get());
      }));
  ASSERT_TRUE(loop->add(good.get(), EPOLLIN, [&](std::uint32_t) { ++served; }));
  loop->turn(0);
  loop->turn(0);
  EXPECT_EQ(ended, 1);
  EXPECT_EQ(served, 2);
  EXPECT_EQ(loop->out_of_memory(), 1u);
}

TEST(EventLoop, WhoseEndNeedsMemoryTooIsAskedAgain) {
  auto loop = EventLoop::create().value();
  UniqueFd fd(::eventfd(1, EFD_CLOEXEC));
  int tries = 0;
  ASSERT_TRUE(loop->add(
      fd.get(), EPOLLIN, [](std::uint32_t) { throw std::bad_alloc(); },
      [&] {
        if (++tries == 1) {
          throw std::bad_alloc();
        }
        loop->remove(fd.get());
      }));
  for (int i = 0; i < 3; ++i) {
    loop->turn(0);
  }
  EXPECT_EQ(tries, 2);
}

TEST(EventLoop, WhatHasEndedItselfBeforeItRanOutOfMemoryIsNotEndedTwice) {
  auto loop = EventLoop::create().value();
  UniqueFd fd(::eventfd(1, EFD_CLOEXEC));
  bool ended = false;
  ASSERT_TRUE(loop->add(
      fd.get(), EPOLLIN,
      [&](std::uint32_t) {
        loop->remove(fd.get());
        throw std::bad_alloc();
      },
      [&] { ended = true; }));
  loop->turn(0);
  EXPECT_FALSE(ended);
  EXPECT_EQ(loop->out_of_memory(), 1u);
}

TEST(EventLoop, TimersWithoutMemoryGoOnOrSayTheirEnd) {
  auto loop = EventLoop::create().value();
  int ticks = 0;
  bool ended = false;
  loop->every(1'000'000, [&] {
    if (++ticks == 3) {
      loop->stop();
    }
    throw std::bad_alloc();
  });
  loop->once(0, [] { throw std::bad_alloc(); }, [&] { ended = true; });
  loop->run();
  EXPECT_EQ(ticks, 3);
  EXPECT_TRUE(ended);
}

TEST(Untrusted, IsReadAsOneCopy) {
  struct Descriptor {
    std::uint32_t offset, length;
  };
  Descriptor shared{1, 2};
  Descriptor local = copy_once(shared);
  shared.length = 3;
  EXPECT_EQ(local.length, 2u);
  EXPECT_EQ(read_once(shared.length), 3u);
}

TEST(TokenBucket, GivesABurstAndThenSoManyASecond) {
  constexpr std::uint64_t kPerSecond = 200, kBurst = 512;
  TokenBucket budget(1'000'000'000 / kPerSecond, kBurst);
  std::uint64_t now = 1'000'000'000;
  std::uint64_t taken = 0;
  for (; budget.ready(now) && taken < 10 * kBurst; ++taken) {
    budget.take(now);
  }
  EXPECT_EQ(taken, kBurst);
  const std::uint64_t wait = budget.ns_until_ready(now);
  EXPECT_EQ(wait, 1'000'000'000 / kPerSecond);
  EXPECT_FALSE(budget.ready(now + wait - 1));
  EXPECT_TRUE(budget.ready(now + wait));
  taken = 0;
  for (now += 1'000'000'000; budget.ready(now); ++taken) {
    budget.take(now);
  }
  EXPECT_EQ(taken, kPerSecond);
  now += 3'600'000'000'000;
  for (taken = 0; budget.ready(now); ++taken) {
    budget.take(now);
  }
  EXPECT_EQ(taken, kBurst) << "no more than a burst, however long it was quiet";
}

TEST(TokenBucket, LetsABurstThroughAndThenOnePerInterval) {
  constexpr std::uint32_t kBurst = 5;
  const auto take = [](TokenBucket& bucket, std::uint64_t now) {
    const std::uint64_t wait = bucket.ns_until_ready(now);
    if (wait == 0) {
      bucket.take(now);
    }
    return wait;
  };
  TokenBucket budget(100, kBurst);
  for (std::uint32_t i = 0; i < kBurst; ++i) {
    EXPECT_EQ(take(budget, 1000), 0u);
  }
  EXPECT_EQ(take(budget, 1000), 100u);
  EXPECT_EQ(take(budget, 1060), 40u) << "who asks too early pays nothing";
  EXPECT_EQ(take(budget, 1100), 0u);
  EXPECT_EQ(take(budget, 1100), 100u);
  EXPECT_EQ(take(budget, 9000), 0u);
  TokenBucket unlimited(0, kBurst);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(take(unlimited, 1000), 0u);
  }
}

}  // namespace
}  // namespace sluice
