#include "memory/pool.h"

#include <algorithm>
#include <bit>
#include <new>

#include "base/check.h"

namespace sluice {
namespace {

constexpr std::uint32_t kLeastReserve = 64;  // a burst of a NIC's queue

std::uint32_t limit_of(const PagePoolOptions& options) {
  return options.limit != 0 ? options.limit : options.page_count;
}

std::uint32_t watermark_of(const PagePoolOptions& options) {
  if (options.watermark != 0) {
    return options.watermark;
  }
  std::uint64_t three_quarters = (std::uint64_t{limit_of(options)} * 3 + 3) / 4;  // rounded up: 1 of 1, not 0
  return static_cast<std::uint32_t>(three_quarters);
}

Result<void> check(const Arena& arena, const PagePoolOptions& options) {
  std::uint64_t end = std::uint64_t{raw(options.first)} + options.page_count;
  if (options.page_count == 0 || end > arena.page_count()) {
    return fail("pool {}: pages {} .. {} do not lie in its arena of {} pages", options.name,
                raw(options.first), end, arena.page_count());
  }
  if (options.limit > options.page_count) {
    return fail("pool {}: limit {} is more than its {} pages", options.name, options.limit,
                options.page_count);
  }
  if (options.watermark > limit_of(options)) {
    return fail("pool {}: watermark {} is above the limit of {} pages and would never be reached",
                options.name, options.watermark, limit_of(options));
  }
  if (!std::has_single_bit(options.return_ring) || options.return_ring < 2 ||
      options.return_ring > kMaxReturnRing) {
    return fail("pool {}: return_ring is {}; it must be a power of two, 2 .. {}", options.name,
                options.return_ring, kMaxReturnRing);
  }
  return {};
}

}  // namespace

PagePool::PagePool(const Arena& arena, const PagePoolOptions& options)
    : arena_(arena),
      name_(options.name),
      first_(raw(options.first)),
      page_count_(options.page_count),
      limit_(limit_of(options)),
      watermark_(watermark_of(options)),
      oldest_first_(options.reuse == PagePoolOptions::Reuse::kOldestFirst),
      ring_(options.first, options.return_ring) {
  owner_.first = first_;
  owner_.mask = std::bit_ceil(limit_) - 1;
  // Zeroed, so touched: no fault on the hot path.
  owner_.cache = std::make_unique<std::uint32_t[]>(std::size_t{owner_.mask} + 1);
  if (oldest_first_) {
    aside_ = std::make_unique<std::uint32_t[]>(limit_);
  }
}

Result<std::unique_ptr<PagePool>> PagePool::create(const Arena& arena, const PagePoolOptions& options) {
  SLUICE_TRY(check(arena, options));
  try {
    return std::unique_ptr<PagePool>(new PagePool(arena, options));
  } catch (const std::bad_alloc&) {
    return fail("pool {}: no memory for the lists of its {} pages", options.name, options.page_count);
  }
}

PagePool::~PagePool() {
  SLUICE_CHECK(idle(), "pool {}: destroyed with {} pages in flight, {} returns under way", name_, inflight(),
               ring_.taken() - ring_.emptied());
}

PageIndex PagePool::alloc_slow() {
  if (!ring_.empty()) {
    collect();
  }
  PageIndex page = PageIndex::kNone;
  if (take_from_cache(&page, 1) == 0) {
    take_rest(&page, 1);
  }
  return page;
}

// What the caller did not find in the cache's stack or ring.
std::uint32_t PagePool::take_rest(PageIndex* pages, std::uint32_t wanted) {
  std::uint32_t count = take_aside(pages, wanted);
  if (count < wanted) {
    count += take_unused(pages + count, wanted - count);
  }
  return count;
}

std::uint32_t PagePool::take_aside(PageIndex* pages, std::uint32_t wanted) {
  const std::uint32_t count = std::min(wanted, owner_.aside);
  for (std::uint32_t i = 0; i < count; ++i) {
    pages[i] = PageIndex{aside_[owner_.aside - count + i]};
  }
  owner_.aside -= count;  // and cache_out grows by as many: the ring begins where it began
  owner_.cache_out.store(owner_.cache_out.load(std::memory_order_relaxed) + count, std::memory_order_release);
  return count;
}

// Since the last look each page went round once, and this many were never needed. Taken from the ring's
// beginning, so that the others keep their order. Some stay in reserve: what is put aside and fetched back
// loses its place among its neighbours, so that must be rare.
void PagePool::put_aside() {
  const std::uint64_t out = owner_.cache_out.load(std::memory_order_relaxed);
  const std::uint64_t level = owner_.cache_in.load(std::memory_order_relaxed) - out - owner_.aside;
  const std::uint64_t surplus = std::min<std::uint64_t>(owner_.fewest, level);
  const std::uint64_t reserve = kLeastReserve + limit_ / 32;
  for (std::uint64_t left = surplus > reserve ? surplus - reserve : 0; left != 0; --left) {
    const std::uint32_t page = owner_.cache[(out + owner_.aside) & owner_.mask];
    aside_[owner_.aside++] = page;
  }
  owner_.fewest = UINT32_MAX;
  owner_.look_at = out + limit_;
}

// Cache and return ring were found empty by the caller.
std::uint32_t PagePool::take_unused(PageIndex* pages, std::uint32_t wanted) {
  alloc_empty_.add(1);
  std::uint32_t used = owner_.used.load(std::memory_order_relaxed);
  std::uint32_t count = wanted < limit_ - used ? wanted : limit_ - used;
  for (std::uint32_t i = 0; i < count; ++i) {
    pages[i] = PageIndex{first_ + used + i};
  }
  owner_.used.store(used + count, std::memory_order_release);
  if (count < wanted) {
    alloc_limit_.add(wanted - count);
  }
  return count;
}

void PagePool::collect() {
  std::uint64_t in = owner_.cache_in.load(std::memory_order_relaxed);
  std::uint64_t level = in - owner_.cache_out.load(std::memory_order_relaxed);
  // cache_in and the ring's head move together for who reads totals(): `moves` is odd meanwhile.
  std::uint32_t moves = owner_.moves.load(std::memory_order_relaxed);
  owner_.moves.store(moves + 1, std::memory_order_relaxed);
  // Release stores below: whoever sees one of them sees the odd value, too.
  const std::uint64_t room = owner_.used.load(std::memory_order_relaxed) - level;
  const std::uint64_t at = place_in(in, level), piece = one_piece(at, room);
  std::uint32_t count = ring_.pop(&owner_.cache[at], piece);
  if (count == piece && piece < room) {
    count += ring_.pop(&owner_.cache[0], room - piece);
  }
  if (count != 0) {
    owner_.cache_in.store(in + count, std::memory_order_release);
    alloc_refill_.add(1);
  }
  owner_.moves.store(moves + 2, std::memory_order_release);
  if (level + count == owner_.used.load(std::memory_order_relaxed) && !ring_.empty()) [[unlikely]] {
    bad_release(0, ring_.taken() - ring_.emptied());  // all pages are home, and there come more
  }
}

std::uint32_t PagePool::release_remote(std::span<const PageIndex> pages) {
  for (PageIndex page : pages) {
    SLUICE_CHECK(raw(page) - first_ < limit_, "pool {}: page {} is not one of its own", name_, raw(page));
  }
  return ring_.push(pages);
}

// A snapshot that was true at one moment. All counts only grow; cache_out is read between two equal readings
// of everything else, so that they all stood so when cache_out was read. Lock-free: a turn is repeated only
// when pages moved.
PagePool::Totals PagePool::totals() const {
  for (;;) {
    std::uint32_t moves = owner_.moves.load(std::memory_order_acquire);
    Totals totals;
    totals.ring_in = ring_.taken();
    totals.collected = ring_.emptied();
    totals.used = owner_.used.load(std::memory_order_acquire);
    totals.cache_in = owner_.cache_in.load(std::memory_order_acquire);
    totals.cache_out = owner_.cache_out.load(std::memory_order_acquire);
    bool still = totals.cache_in == owner_.cache_in.load(std::memory_order_acquire) &&
                 totals.used == owner_.used.load(std::memory_order_acquire) &&
                 totals.collected == ring_.emptied() && totals.ring_in == ring_.taken() &&
                 moves == owner_.moves.load(std::memory_order_acquire) && (moves & 1) == 0;
    if (still) {
      return totals;
    }
  }
}

std::uint32_t PagePool::inflight() const {
  Totals now = totals();
  return static_cast<std::uint32_t>(now.held() - now.released());
}

bool PagePool::idle() const {
  Totals now = totals();
  if (now.held() != now.released()) {
    return false;
  }
  return ring_.all_filled();
}

void PagePool::bad_release(std::uint32_t worst_slot, std::uint64_t count) const {
  std::uint32_t used = owner_.used.load(std::memory_order_relaxed);
  SLUICE_CHECK(worst_slot < used, "pool {}: page {} was never given out ({} of pages {} .. were)", name_,
               worst_slot + first_, used, first_);
  Totals now = totals();
  SLUICE_CHECK(false, "pool {}: {} pages come home, held {}, released {}: one comes home twice", name_, count,
               now.held(), now.released());
  __builtin_unreachable();
}

void PagePool::visit(CounterVisitor& visitor) const {
  Totals now = totals();
  visitor.counter("alloc_fast", now.cache_out);
  visitor.counter("alloc_slow", now.used);
  visitor.counter("alloc_empty", alloc_empty_.value());
  visitor.counter("alloc_refill", alloc_refill_.value());
  visitor.counter("alloc_limit", alloc_limit_.value());
  visitor.counter("recycle_cached", now.cache_in - now.collected);
  visitor.counter("recycle_cache_full", 0);  // the cache has room for every page that was ever used
  visitor.counter("recycle_ring", now.ring_in);
  visitor.counter("recycle_ring_full", ring_.refused());
  visitor.counter("held", now.held());
  visitor.counter("released", now.released());
  visitor.counter("inflight", now.held() - now.released());
  visitor.counter("limit", limit_);
}

}  // namespace sluice
