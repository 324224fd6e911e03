// Ledger: who holds each page now. Private memory (D3); what a peer gives back is believed only as far as the
// ledger agrees.
//
// One ledger has one writing thread, the owner of the pool whose pages it covers: pools with different owners
// on one arena have a ledger each, over their own range. Other threads may read (holder, lent): each answer
// is of some moment.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/ids.h"

namespace sluice {

// What went wrong with a page that somebody gave back. Counted, nothing changes.
enum class PageFault : std::uint8_t {
  kNone,
  kForged,   // no such page in this ledger
  kForeign,  // the page is somebody else's now
  kDouble,   // the page is free: given back already, or never lent
};

// A page's holder is a port id; free pages are nobody's, pages in the NIC's rings or in a worker's hand are
// the host's.
class Ledger {
 public:
  // Pages 0 .. page_count - 1, or those of one pool: first .. first + page_count - 1. All free.
  explicit Ledger(std::uint32_t page_count) : Ledger(PageIndex{0}, page_count) {}
  Ledger(PageIndex first, std::uint32_t page_count);

  // The writing thread; a page must be free (CHECK: our bug).
  void lend(PageIndex page, PortId holder) {
    std::uint32_t slot = raw(page) - first_;
    if (slot >= page_count_ || !is_holder(holder) ||
        holders_[slot].load(std::memory_order_relaxed) != kNobody) [[unlikely]] {
      bad_lend(slot, holder);
    }
    holders_[slot].store(holder, std::memory_order_relaxed);
    add_lent(holder, 1);
  }

  // The same thread. Takes an untrusted index; on kNone the page is free again and may go to its pool.
  PageFault give_back(std::uint32_t untrusted_page, PortId from) {
    if (!is_holder(from)) [[unlikely]] {
      bad_holder(from);
    }
    std::uint32_t slot = untrusted_page - first_;  // below first_ it wraps to a slot that is too large
    if (slot >= page_count_) [[unlikely]] {
      return PageFault::kForged;
    }
    PortId present = holders_[slot].load(std::memory_order_relaxed);
    if (present != from) [[unlikely]] {
      return present == kNobody ? PageFault::kDouble : PageFault::kForeign;
    }
    holders_[slot].store(kNobody, std::memory_order_relaxed);
    add_lent(from, -1);
    return PageFault::kNone;
  }

  // Takes back everything `holder` has (D7: only after nothing can write to it any more); calls `home` per
  // page, which is free by then. Scans the ledger: for the end of a session, not for a packet.
  std::uint32_t reclaim(PortId holder, const std::function<void(PageIndex)>& home);

  PortId holder(PageIndex page) const;      // PortId::kKernel when free
  std::uint32_t lent(PortId holder) const;  // a load, no scan
  bool covers(PageIndex page) const { return raw(page) - first_ < page_count_; }
  std::uint32_t page_count() const { return page_count_; }
  PageIndex first() const { return PageIndex{first_}; }

 private:
  static constexpr PortId kNobody = PortId::kKernel;  // the stack never holds a page of ours
  static bool is_holder(PortId port) { return port != kNobody && raw(port) < kMaxPorts; }
  // Out of line, so that the hot path carries no strings.
  [[noreturn, gnu::cold, gnu::noinline]] void bad_lend(std::uint32_t slot, PortId holder) const;
  [[noreturn, gnu::cold, gnu::noinline]] static void bad_holder(PortId holder);
  void add_lent(PortId holder, int change) {
    auto& count = lent_[raw(holder)];  // one writer: no locked instruction
    count.store(count.load(std::memory_order_relaxed) + static_cast<std::uint32_t>(change),
                std::memory_order_relaxed);
  }

  std::uint32_t first_;
  std::uint32_t page_count_;
  std::unique_ptr<std::atomic<PortId>[]> holders_;      // one word per page
  std::unique_ptr<std::atomic<std::uint32_t>[]> lent_;  // one count per port id
};

}  // namespace sluice
