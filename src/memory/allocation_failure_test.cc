// Every allocation that creation makes fails once: this program has its own operator new, which counts.
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>

#include "memory/arena.h"
#include "memory/ledger.h"
#include "memory/memory_test_tools.h"
#include "memory/pool.h"

namespace {

thread_local long allocations_until_failure = 0;  // 0: none fails
thread_local long live = 0;
thread_local bool failed = false;

void* allocate(std::size_t bytes, std::size_t alignment) {
  if (allocations_until_failure != 0 && --allocations_until_failure == 0) {
    failed = true;
    throw std::bad_alloc();
  }
  void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  ++live;
  return memory;
}

void deallocate(void* memory) {
  live -= memory != nullptr ? 1 : 0;
  std::free(memory);
}

}  // namespace

void* operator new(std::size_t bytes) {
  return allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept {
  deallocate(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  deallocate(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  deallocate(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  deallocate(memory);
}

namespace sluice {
namespace {

struct Outcome {
  int failures = 0;    // ended as an error value
  int exceptions = 0;  // ended as std::bad_alloc, for whoever is at the border to catch
};

// `create` returns whether it made the thing; whatever it made is gone when it returns.
template <typename Create>
Outcome fail_every_allocation(Create create) {
  Outcome outcome;
  for (long at = 1;; ++at) {
    auto before = test::Holdings::now();
    long live_before = live;
    failed = false;
    allocations_until_failure = at;
    bool ok = false, threw = false;
    try {
      ok = create();
    } catch (const std::bad_alloc&) {
      threw = true;
    }
    allocations_until_failure = 0;
    EXPECT_EQ(live, live_before) << "allocation " << at;
    EXPECT_EQ(test::Holdings::now(), before) << "allocation " << at;
    if (!failed) {
      EXPECT_TRUE(ok);
      return outcome;
    }
    EXPECT_FALSE(ok) << "allocation " << at;
    (threw ? outcome.exceptions : outcome.failures) += 1;
  }
}

TEST(PagePool, Crash_NothingLeaksWhenAnyAllocationOfItsCreationFails) {
  Arena arena = Arena::create({.name = "test", .page_count = 64, .huge = ArenaOptions::Huge::kNever}).value();
  PagePoolOptions options{.name = "a name that is too long for std::string to keep without an allocation",
                          .page_count = 64,
                          .reuse = PagePoolOptions::Reuse::kOldestFirst};
  Outcome outcome = fail_every_allocation([&] { return PagePool::create(arena, options).has_value(); });
  // The pool, its name, the cache, what it puts aside, the return ring.
  EXPECT_EQ(outcome.failures, 5);
  EXPECT_EQ(outcome.exceptions, 0);
}

TEST(Ledger, Crash_NothingLeaksWhenAnyAllocationOfItsCreationFails) {
  Outcome outcome = fail_every_allocation([] { return Ledger(64).page_count() == 64; });
  EXPECT_EQ(outcome.exceptions, 2);  // holders, counts; a constructor has only an exception to say so
}

TEST(Arena, Crash_NothingLeaksWhenAnyAllocationOfItsCreationFails) {
  ArenaOptions options{.name = "a name that is too long for std::string to keep without an allocation",
                       .page_count = 64,
                       .huge = ArenaOptions::Huge::kNever};
  Outcome outcome = fail_every_allocation([&] { return Arena::create(options).has_value(); });
  EXPECT_GE(outcome.exceptions + outcome.failures, 1);
}

}  // namespace
}  // namespace sluice
