#include "memory/pool_directory.h"

#include <algorithm>

#include "base/check.h"

namespace sluice {

std::uint32_t PoolDirectory::Entry::lend(std::uint32_t wanted) {
  const std::uint32_t before = lent_.fetch_add(wanted, std::memory_order_acq_rel);
  const std::uint32_t most = most_lent_.load(std::memory_order_relaxed);
  const std::uint32_t granted = before >= most ? 0 : std::min(wanted, most - before);
  if (granted < wanted) {
    unlend(wanted - granted);
  }
  return granted;
}

Result<void> PoolDirectory::add(PagePool& pool, std::uint32_t most_lent) {
  SLUICE_CHECK(of(pool) == nullptr, "pool {} is here already", pool.name());
  std::uint32_t count = count_.load(std::memory_order_relaxed);
  std::uint32_t place = 0;
  while (place < count && entries_[place]->pool_.load(std::memory_order_relaxed) != nullptr) {
    ++place;
  }
  if (place == kMaxPools) {
    return fail("more than {} queues in one arena", kMaxPools);
  }
  if (place == count) {
    entries_[place] = std::make_unique<Entry>();
  }
  Entry& entry = *entries_[place];
  entry.most_lent_.store(most_lent, std::memory_order_relaxed);
  entry.pool_.store(&pool, std::memory_order_release);
  entry.range_.store(std::uint64_t{raw(pool.first())} << 32 | pool.page_count(), std::memory_order_release);
  if (place == count) {
    count_.store(count + 1, std::memory_order_release);
  }
  return {};
}

void PoolDirectory::remove(const PagePool& pool) {
  Entry* entry = of(pool);
  SLUICE_CHECK(entry != nullptr, "pool {} is not here", pool.name());
  SLUICE_CHECK(pool.idle(), "pool {}: {} pages are out", pool.name(), pool.inflight());
  SLUICE_CHECK(entry->lent() == 0, "pool {}: {} pages are counted as lent", pool.name(), entry->lent());
  entry->range_.store(0, std::memory_order_release);
  entry->pool_.store(nullptr, std::memory_order_release);
}

PoolDirectory::Entry* PoolDirectory::find(PageIndex page) const {
  const std::uint32_t count = count_.load(std::memory_order_acquire);
  for (std::uint32_t i = 0; i < count; ++i) {
    if (entries_[i]->contains(page)) {
      return entries_[i].get();
    }
  }
  return nullptr;
}

std::uint32_t PoolDirectory::lent(const PagePool& pool) const {
  const Entry* entry = of(pool);
  return entry == nullptr ? 0 : entry->lent();
}

PoolDirectory::Entry* PoolDirectory::of(const PagePool& pool) const {
  const std::uint32_t count = count_.load(std::memory_order_acquire);
  for (std::uint32_t i = 0; i < count; ++i) {
    if (entries_[i]->pool_.load(std::memory_order_relaxed) == &pool) {
      return entries_[i].get();
    }
  }
  return nullptr;
}

}  // namespace sluice
