// PagePool: where the pages of one RX queue (or of one app lane) are born and come home.
//
// One thread, the owner, allocates and releases; it never waits, locks, allocates or enters the kernel. Other
// threads return pages through a bounded ring. The shape, and the names of the statistics, are the kernel's
// (Documentation/networking/page_pool.rst): a LIFO cache for the owner, refilled in bulk from the return ring, then from
// pages that were never used ("slow").
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/ids.h"
#include "base/result.h"
#include "memory/arena.h"
#include "stats/counter.h"

namespace sluice {

struct PagePoolOptions {
  std::string name;                 // "eth1:0", as `sluicectl show pools` prints it
  PageIndex first = PageIndex{0};   // the range of the arena that is this pool's: first .. first + page_count - 1
  std::uint32_t page_count = 0;
  std::uint32_t limit = 0;          // most pages in flight, 1 .. page_count; 0 means page_count
  std::uint32_t watermark = 0;      // in flight from here on is pressure; 0 means 3/4 of limit
  std::uint32_t return_ring = 4096; // capacity for other threads' returns, a power of two
};

class PagePool {
 public:
  // The arena must outlive the pool.
  static Result<std::unique_ptr<PagePool>> create(const Arena& arena, const PagePoolOptions& options);
  // CHECKs that nothing is in flight: see retire().
  ~PagePool();

  // Owner thread. Takes a page out: in flight from now on. kNone when the limit is reached.
  PageIndex alloc();
  // Owner thread. Fills the front of `pages`; returns how many, fewer when the limit is reached.
  std::uint32_t alloc_bulk(std::span<PageIndex> pages);
  // Owner thread. Each page must be in flight and of this pool (CHECKed where that is free, else by the ledger).
  void release(PageIndex page);
  void release_bulk(std::span<const PageIndex> pages);
  // Any other thread, any number at a time. Returns how many fitted the ring (from the front); the caller keeps the rest
  // and tries again. Counted ring / ring_full.
  std::uint32_t release_remote(std::span<const PageIndex> pages);

  // Owner thread: exact. Other threads: exact as of some moment between call and return.
  std::uint32_t inflight() const;  // held - released
  bool under_pressure() const;     // inflight() >= watermark

  bool contains(PageIndex page) const;
  const Arena& arena() const;
  const std::string& name() const;
  std::uint32_t limit() const;

  // alloc_fast alloc_slow alloc_empty alloc_refill recycle_cached recycle_cache_full recycle_ring
  // recycle_ring_full held released inflight limit
  void visit(CounterVisitor& visitor) const;
};

}  // namespace sluice
