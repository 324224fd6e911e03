// PageSet and PoolDirectory.
#include "memory/pool_directory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "memory/page_set.h"

namespace sluice {
namespace {

TEST(PageSet, Model_IsASetWhateverTheOrder) {
  for (std::uint32_t seed = 1; seed <= 20; ++seed) {
    std::mt19937 random(seed);
    PageSet set(50);
    std::set<std::uint32_t> model;
    // Few pages, which stand close to each other and far apart: many in one place.
    auto some_page = [&] { return static_cast<std::uint32_t>(random() % 40) * (seed % 2 == 0 ? 1u : 128u); };
    for (int step = 0; step < 5000; ++step) {
      const std::uint32_t page = some_page();
      if (random() % 2 == 0 && model.size() < 50 && !model.contains(page)) {
        set.insert(PageIndex{page});
        model.insert(page);
      } else {
        ASSERT_EQ(set.erase(PageIndex{page}), model.erase(page) == 1);
      }
      ASSERT_EQ(set.count(), model.size());
      for (std::uint32_t known : model) {
        ASSERT_TRUE(set.contains(PageIndex{known}));
      }
    }
    std::set<std::uint32_t> taken;
    set.take_all([&](PageIndex page) { EXPECT_TRUE(taken.insert(raw(page)).second); });
    EXPECT_EQ(taken, model);
    EXPECT_EQ(set.count(), 0u);
    EXPECT_FALSE(set.erase(PageIndex::kNone));
    EXPECT_FALSE(set.contains(PageIndex::kNone));
  }
}

TEST(PageSetDeathTest, TakesNoPageTwiceAndNoMoreThanItsRoom) {
  PageSet set(2);
  set.insert(PageIndex{5});
  EXPECT_DEATH(set.insert(PageIndex{5}), "page 5 is here already");
  set.insert(PageIndex{6});
  EXPECT_DEATH(set.insert(PageIndex{7}), "page 7, 2 of 2");
}

class Directory : public ::testing::Test {
 protected:
  std::unique_ptr<PagePool> pool(std::uint32_t first, std::uint32_t count) {
    return PagePool::create(arena_, {.name = "p", .first = PageIndex{first}, .page_count = count}).value();
  }
  Arena arena_ = Arena::create({.name = "directory", .page_count = 64}).value();
  PoolDirectory directory_;
};

TEST_F(Directory, KnowsThePoolOfEachPageWhileThePoolIsThere) {
  auto a = pool(0, 10), b = pool(16, 16);
  directory_.add(*a, 4).value();
  directory_.add(*b, 4).value();
  for (std::uint32_t page = 0; page < 64; ++page) {
    PoolDirectory::Entry* entry = directory_.find(PageIndex{page});
    PagePool* expected = page < 10 ? a.get() : page >= 16 && page < 32 ? b.get() : nullptr;
    ASSERT_EQ(entry != nullptr, expected != nullptr) << page;
    EXPECT_TRUE(entry == nullptr || (entry->contains(PageIndex{page}) && &entry->pool() == expected));
  }
  EXPECT_EQ(directory_.find(PageIndex::kNone), nullptr);
  directory_.remove(*a);
  EXPECT_EQ(directory_.find(PageIndex{3}), nullptr);
  auto c = pool(0, 5);
  directory_.add(*c, 4).value();
  EXPECT_EQ(&directory_.find(PageIndex{3})->pool(), c.get());
  EXPECT_EQ(&directory_.find(PageIndex{20})->pool(), b.get());
}

TEST_F(Directory, APoolLendsNoMoreThanItCanSpare) {
  auto a = pool(0, 10);
  directory_.add(*a, 4).value();
  PoolDirectory::Entry& entry = *directory_.find(PageIndex{0});
  EXPECT_EQ(entry.lend(3), 3u);
  EXPECT_EQ(entry.lend(3), 1u);
  EXPECT_EQ(entry.lend(3), 0u);
  EXPECT_EQ(directory_.lent(*a), 4u);
  entry.unlend(4);
  EXPECT_EQ(directory_.lent(*a), 0u);
}

// D6: several queues borrow from one pool at a time.
TEST_F(Directory, ThreadsTogetherNeverHaveMoreThanThePoolLends) {
  auto a = pool(0, 10);
  directory_.add(*a, 100).value();
  PoolDirectory::Entry& entry = *directory_.find(PageIndex{0});
  std::atomic<std::uint32_t> out{0}, worst{0};
  auto borrow = [&] {
    for (int i = 0; i < 20'000; ++i) {
      const std::uint32_t got = entry.lend(64);
      const std::uint32_t now = out.fetch_add(got) + got;
      std::uint32_t seen = worst.load();
      while (seen < now && !worst.compare_exchange_weak(seen, now)) {
      }
      out.fetch_sub(got);
      entry.unlend(got);
    }
  };
  std::thread first(borrow), second(borrow);
  first.join();
  second.join();
  EXPECT_LE(worst.load(), 100u);
  EXPECT_EQ(entry.lent(), 0u);
}

TEST_F(Directory, DeathTest_APoolWithPagesOutStays_D7) {
  auto a = pool(0, 10);
  directory_.add(*a, 4).value();
  const PageIndex page = a->alloc();
  EXPECT_DEATH(directory_.remove(*a), "pool p: 1 pages are out");
  a->release(page);
  directory_.remove(*a);
  EXPECT_DEATH(directory_.remove(*a), "pool p is not here");
}

}  // namespace
}  // namespace sluice
