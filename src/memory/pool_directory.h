// PoolDirectory: which pool a page of one arena comes from. For pages that leave by another queue than the
// one they came by: each goes home to its own pool, and no pool lends out more than it can spare.
//
// A pool is in the directory from its making until all its pages are home. So a pool that is found for a page
// in somebody's hand stays as long as that page is out.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "base/ids.h"
#include "base/result.h"
#include "memory/pool.h"

namespace sluice {

class PoolDirectory {
 public:
  static constexpr std::uint32_t kMaxPools = 4096;

  class Entry {
   public:
    bool contains(PageIndex page) const {
      const std::uint64_t range = range_.load(std::memory_order_acquire);
      return raw(page) - static_cast<std::uint32_t>(range >> 32) < static_cast<std::uint32_t>(range);
    }
    PagePool& pool() const { return *pool_.load(std::memory_order_acquire); }

    // Any thread. Pages of this pool that others have, or are about to have: at most `most_lent` of them. How
    // many more there may be, up to `wanted`; those are counted.
    std::uint32_t lend(std::uint32_t wanted);
    // As many less. Before the last of them goes home: after that the pool may be gone.
    void unlend(std::uint32_t count) { lent_.fetch_sub(count, std::memory_order_acq_rel); }
    // Those that could not go home after all.
    void lend_again(std::uint32_t count) { lent_.fetch_add(count, std::memory_order_acq_rel); }
    std::uint32_t lent() const { return lent_.load(std::memory_order_acquire); }

   private:
    friend class PoolDirectory;
    std::atomic<std::uint64_t> range_{0};  // first page << 32 | count; 0: empty
    std::atomic<PagePool*> pool_{nullptr};
    std::atomic<std::uint32_t> most_lent_{0};
    alignas(64) std::atomic<std::uint32_t> lent_{0};
  };

  // Control thread. `most_lent`: see Entry::lend().
  Result<void> add(PagePool& pool, std::uint32_t most_lent);
  // Control thread. All its pages are home (CHECK), and it is quiet.
  void remove(const PagePool& pool);

  // Any thread that has the page in hand; nullptr: of no pool here. The same Entry as long as the pool is
  // here, so a caller may look at the last one first.
  Entry* find(PageIndex page) const;

  // Pages of this pool that others have; 0 also if it is not here.
  std::uint32_t lent(const PagePool& pool) const;

 private:
  Entry* of(const PagePool& pool) const;

  // Entries stay when their pools go: other threads may be looking at them. They are used again.
  std::array<std::unique_ptr<Entry>, kMaxPools> entries_;
  std::atomic<std::uint32_t> count_{0};
};

}  // namespace sluice
