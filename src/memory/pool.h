// PagePool: where the pages of one RX queue (or of one app lane) are born and come home.
//
// One thread, the owner, allocates and releases; it never waits, locks, allocates or enters the kernel. Other
// threads return pages through a bounded ring. The shape, and the names of the statistics, are the kernel's
// (Documentation/networking/page_pool.rst): a cache for the owner, refilled in bulk from the return ring,
// then from pages that were never used ("slow").
//
//        alloc <--+-- cache <---- collect ----  return ring <---- release_remote (other threads)
//                 |         <---- release (owner)
//                 +-- never used: first + used .. first + limit - 1
//
// The cache is a stack (Reuse::kNewestFirst), or a ring (kOldestFirst) that puts aside what it does not need:
// else whatever was out at the worst moment would go round for ever.
//
// A page that was never used is taken only when cache and ring are empty, so all that were ever used are out
// by then: no more than `limit` of them are ever touched, and that is how the limit is kept, without a count
// on the hot path.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>

#include "base/ids.h"
#include "base/result.h"
#include "memory/arena.h"
#include "memory/return_ring.h"
#include "stats/counter.h"

namespace sluice {

struct PagePoolOptions {
  std::string name;  // "eth1:0", as `sluicectl show pools` prints it
  PageIndex first =
      PageIndex{0};  // the range of the arena that is this pool's: first .. first + page_count - 1
  std::uint32_t page_count = 0;
  std::uint32_t limit = 0;      // most pages in flight, 1 .. page_count; 0 means page_count
  std::uint32_t watermark = 0;  // in flight from here on is pressure; 0 means 3/4 of limit
  std::uint32_t return_ring =
      4096;  // capacity for other threads' returns, a power of two, 2 .. kMaxReturnRing
  enum class Reuse : std::uint8_t {
    kNewestFirst,  // few pages go round, and stay in the owner's caches: for pages that the owner fills
    kOldestFirst,  // neighbours stay neighbours, whatever comes home at a time: for pages that the kernel
                   // fills, whose CPU walks through them
  } reuse = Reuse::kNewestFirst;
};

class PagePool {
 public:
  // The arena must outlive the pool (a pool that may outlive its session goes to RetiredPools,
  // memory/retired.h).
  static Result<std::unique_ptr<PagePool>> create(const Arena& arena, const PagePoolOptions& options);
  // CHECKs that every page is home.
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // Owner thread. Takes a page out: in flight from now on. kNone when the limit is reached, or when all that
  // is home is a return that another thread is in the middle of. Looks into the return ring only when the
  // cache is empty.
  PageIndex alloc();
  // Owner thread. Fills the front of `pages`; returns how many, fewer as for alloc(). Collects what others
  // returned.
  std::uint32_t alloc_bulk(std::span<PageIndex> pages);
  // Owner thread. Each page must be in flight and of this pool. CHECKed here: it was given out before, and no
  // more come home than went out. That it is this very holder's is the ledger's to say.
  void release(PageIndex page);
  void release_bulk(std::span<const PageIndex> pages);
  // Owner thread: moves what others returned into the cache. Once per turn of an owner that does not use
  // alloc_bulk: otherwise, with a cache that never runs empty, the ring stays full for ever.
  void collect();
  // Any other thread, any number at a time. Returns how many fitted the ring (from the front); the caller
  // keeps the rest and tries again. Counted ring / ring_full. Nothing of the pool is touched after the last
  // page is in.
  std::uint32_t release_remote(std::span<const PageIndex> pages);

  // Owner thread: exact. Other threads: exact as of some moment between call and return. A page counts as
  // released from the moment its place in the return ring is taken.
  std::uint32_t inflight() const;  // held - released
  bool under_pressure() const { return inflight() >= watermark_; }

  // Every page is home and no return is half-way: the pool may be destroyed. Owner thread, or who took over
  // from it.
  bool idle() const;

  bool contains(PageIndex page) const { return raw(page) - first_ < page_count_; }
  const Arena& arena() const { return arena_; }
  const std::string& name() const { return name_; }
  PageIndex first() const { return PageIndex{first_}; }
  std::uint32_t page_count() const { return page_count_; }
  std::uint32_t limit() const { return limit_; }
  std::uint32_t watermark() const { return watermark_; }

  // alloc_fast alloc_slow alloc_empty alloc_refill alloc_limit recycle_cached recycle_cache_full recycle_ring
  // recycle_ring_full held released inflight limit; docs/memory.md says what each means here.
  void visit(CounterVisitor& visitor) const;

 private:
  PagePool(const Arena& arena, const PagePoolOptions& options);
  PageIndex alloc_slow();
  // Where in the cache `count` entries that are put in or taken out begin, and how many of them stand in one
  // piece.
  std::uint64_t place_in(std::uint64_t in, std::uint64_t level) const {
    return oldest_first_ ? in & owner_.mask : level;
  }
  std::uint64_t place_out(std::uint64_t out, std::uint64_t level, std::uint64_t count) const {
    return oldest_first_ ? (out + owner_.aside) & owner_.mask : level - count;
  }
  std::uint64_t one_piece(std::uint64_t place, std::uint64_t count) const {
    const std::uint64_t to_end = std::uint64_t{owner_.mask} + 1 - place;
    return count < to_end ? count : to_end;
  }
  std::uint32_t put(std::uint32_t* to, std::span<const PageIndex> pages);
  std::uint32_t take_from_cache(PageIndex* pages, std::uint32_t wanted);
  std::uint32_t take_rest(PageIndex* pages, std::uint32_t wanted);
  std::uint32_t take_aside(PageIndex* pages, std::uint32_t wanted);
  std::uint32_t take_unused(PageIndex* pages, std::uint32_t wanted);
  void note_level();
  void put_aside();
  [[noreturn, gnu::cold, gnu::noinline]] void bad_release(std::uint32_t worst_slot,
                                                          std::uint64_t count) const;

  struct Totals {
    std::uint64_t cache_out, cache_in, used, collected, ring_in;
    std::uint64_t held() const { return cache_out + used; }
    std::uint64_t released() const { return cache_in - collected + ring_in; }
  };
  Totals totals() const;

  // Read by every thread, written by none after creation.
  const Arena& arena_;
  const std::string name_;
  const std::uint32_t first_;
  const std::uint32_t page_count_;
  const std::uint32_t limit_;
  const std::uint32_t watermark_;
  const bool oldest_first_;

  // The owner's line. Two free-running counts instead of one level: alloc writes the one, release the other,
  // so neither waits for the other's store, and both are statistics at no cost. Other threads read them.
  struct alignas(64) Owner {
    std::atomic<std::uint64_t> cache_out{0};  // pages taken out of the cache
    std::atomic<std::uint64_t> cache_in{0};   // pages put in: by release, and by collect
    std::atomic<std::uint32_t> used{0};       // pages ever taken out for the first time, 0 .. limit
    std::uint32_t first = 0;
    std::unique_ptr<std::uint32_t[]> cache;  // mask + 1 entries: everything that was ever used fits
    std::uint32_t mask = 0;
    std::atomic<std::uint32_t> moves{0};  // odd while collect() is changing several counts
    // kOldestFirst: pages of the cache that are not in the ring, which begins at cache_out + aside; the
    // fewest that the ring held since the last look; and when to look next.
    std::uint32_t aside = 0;
    std::uint32_t fewest = UINT32_MAX;
    std::uint64_t look_at = 0;  // a value of cache_out
  } owner_;
  static_assert(sizeof(Owner) == 64);
  std::unique_ptr<std::uint32_t[]> aside_;  // limit entries, a stack
  Counter alloc_empty_, alloc_refill_, alloc_limit_;
  ReturnRing ring_;
};

inline PageIndex PagePool::alloc() {
  std::uint64_t out = owner_.cache_out.load(std::memory_order_relaxed);
  std::uint64_t level = owner_.cache_in.load(std::memory_order_relaxed) - out - owner_.aside;
  if (level == 0) [[unlikely]] {
    return alloc_slow();
  }
  std::uint32_t page = owner_.cache[place_out(out, level, 1)];
  owner_.cache_out.store(out + 1, std::memory_order_release);
  return PageIndex{page};
}

inline void PagePool::release(PageIndex page) {
  std::uint64_t in = owner_.cache_in.load(std::memory_order_relaxed);
  std::uint64_t level = in - owner_.cache_out.load(std::memory_order_relaxed);
  std::uint32_t used = owner_.used.load(std::memory_order_relaxed);
  std::uint32_t slot = raw(page) - owner_.first;
  if (slot >= used || level >= used) [[unlikely]] {
    bad_release(slot, 1);
  }
  owner_.cache[place_in(in, level)] = raw(page);
  owner_.cache_in.store(in + 1, std::memory_order_release);
}

inline std::uint32_t PagePool::take_from_cache(PageIndex* pages, std::uint32_t wanted) {
  std::uint64_t out = owner_.cache_out.load(std::memory_order_relaxed);
  std::uint64_t level = owner_.cache_in.load(std::memory_order_relaxed) - out - owner_.aside;
  auto count = static_cast<std::uint32_t>(level < wanted ? level : wanted);
  if (count != 0) [[likely]] {  // an empty span may have no address, which memcpy(3) must not be given
    const std::uint64_t from = place_out(out, level, count), piece = one_piece(from, count);
    std::memcpy(pages, &owner_.cache[from], piece * sizeof(PageIndex));
    if (piece < count) [[unlikely]] {
      std::memcpy(pages + piece, &owner_.cache[0], (count - piece) * sizeof(PageIndex));
    }
  }
  owner_.cache_out.store(out + count, std::memory_order_release);
  return count;
}

// kOldestFirst: what is left in the ring, and now and then what of it is never needed.
inline void PagePool::note_level() {
  const std::uint64_t out = owner_.cache_out.load(std::memory_order_relaxed);
  const std::uint64_t level = owner_.cache_in.load(std::memory_order_relaxed) - out - owner_.aside;
  owner_.fewest = std::min(owner_.fewest, static_cast<std::uint32_t>(level));
  if (out >= owner_.look_at) [[unlikely]] {
    put_aside();
  }
}

inline std::uint32_t PagePool::alloc_bulk(std::span<PageIndex> pages) {
  if (!ring_.empty()) [[unlikely]] {
    collect();
  }
  auto wanted = static_cast<std::uint32_t>(pages.size());
  std::uint32_t count = take_from_cache(pages.data(), wanted);
  if (oldest_first_) {
    note_level();
  }
  if (count < wanted) [[unlikely]] {
    count += take_rest(pages.data() + count, wanted - count);
  }
  return count;
}

// Into the cache; the largest slot number among them.
inline std::uint32_t PagePool::put(std::uint32_t* to, std::span<const PageIndex> pages) {
  const std::uint32_t first = owner_.first;
  std::uint32_t worst = 0;
  for (std::size_t i = 0; i < pages.size(); ++i) {
    std::uint32_t slot = raw(pages[i]) - first;
    worst = slot > worst ? slot : worst;
    to[i] = raw(pages[i]);
  }
  return worst;
}

inline void PagePool::release_bulk(std::span<const PageIndex> pages) {
  std::uint64_t in = owner_.cache_in.load(std::memory_order_relaxed);
  std::uint64_t level = in - owner_.cache_out.load(std::memory_order_relaxed);
  std::uint32_t used = owner_.used.load(std::memory_order_relaxed);
  if (pages.size() > used - level) [[unlikely]] {
    bad_release(0, pages.size());
  }
  const std::uint64_t at = place_in(in, level), piece = one_piece(at, pages.size());
  std::uint32_t worst = put(&owner_.cache[at], pages.first(piece));
  if (piece < pages.size()) [[unlikely]] {
    worst = std::max(worst, put(&owner_.cache[0], pages.subspan(piece)));
  }
  if (worst >= used && !pages.empty()) [[unlikely]] {
    bad_release(worst, pages.size());
  }
  owner_.cache_in.store(in + pages.size(), std::memory_order_release);
}

}  // namespace sluice
