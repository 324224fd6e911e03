// Registering memory with the kernel (a UMEM) needs CAP_NET_RAW.
#include "control/engine/host_memory.h"

#include <gtest/gtest.h>

#include <random>

namespace sluice {
namespace {

class HostMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto probe = memory_.reserve(1024);
    if (!probe) {
      GTEST_SKIP() << probe.error().message;
    }
  }
  HostMemory memory_{2048, ArenaOptions::Huge::kNever};
};

TEST_F(HostMemoryTest, AllQueuesThatWereReservedForShareOneArena) {
  auto a = memory_.take(300), b = memory_.take(300), c = memory_.take(424);
  ASSERT_TRUE(a && b && c);
  EXPECT_EQ(a->arena, b->arena);
  EXPECT_EQ(a->umem, c->umem);
  auto late = memory_.take(300);
  ASSERT_TRUE(late);
  EXPECT_NE(late->arena, a->arena) << "a UMEM cannot grow";
}

TEST_F(HostMemoryTest, Model_PagesBelongToOneQueueAtATimeAndAllComeBack) {
  std::mt19937 random(7);
  std::vector<HostMemory::Range> taken;
  for (int step = 0; step < 2000; ++step) {
    if (taken.empty() || random() % 2 == 0) {
      auto range = memory_.take(static_cast<std::uint32_t>(random() % 200 + 1));
      ASSERT_TRUE(range);
      for (const auto& other : taken) {
        bool apart = other.arena != range->arena ||
                     raw(other.first) + other.page_count <= raw(range->first) ||
                     raw(range->first) + range->page_count <= raw(other.first);
        ASSERT_TRUE(apart);
      }
      ASSERT_LE(raw(range->first) + range->page_count, range->arena->page_count());
      taken.push_back(*range);
      if (taken.size() > 8) {
        memory_.give_back(taken.front());
        taken.erase(taken.begin());
      }
    } else {
      std::size_t index = random() % taken.size();
      memory_.give_back(taken[index]);
      taken.erase(taken.begin() + static_cast<std::ptrdiff_t>(index));
    }
  }
  for (const auto& range : taken) {
    memory_.give_back(range);
  }
  EXPECT_TRUE(memory_.take(1024)) << "neighbours are joined again";
}

}  // namespace
}  // namespace sluice
