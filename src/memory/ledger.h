// Ledger: who holds each page of an arena now. Private memory (D3); what a peer gives back is believed only
// as far as the ledger agrees.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/ids.h"

namespace sluice {

// What went wrong with a page that somebody gave back. Counted, nothing changes.
enum class PageFault : std::uint8_t {
  kNone,
  kForged,   // no such page in this arena
  kForeign,  // the page is somebody else's now
  kDouble,   // the page is free: given back already, or never lent
};

// A page's holder is a port id; free pages are nobody's, pages in the NIC's rings or in a worker's hand are the host's.
class Ledger {
 public:
  explicit Ledger(std::uint32_t page_count);

  // The thread that owns the page's pool; a page must be free (CHECK: our bug).
  void lend(PageIndex page, PortId holder);
  // The same thread. Takes an untrusted index; on kNone the page is free again and may go to its pool.
  PageFault give_back(std::uint32_t untrusted_page, PortId from);

  // Takes back everything `holder` has (D7: only after nothing can write to it any more); calls `home` per page.
  std::uint32_t reclaim(PortId holder, const std::function<void(PageIndex)>& home);

  PortId holder(PageIndex page) const;  // PortId::kKernel when free
  std::uint32_t lent(PortId holder) const;
  std::uint32_t page_count() const;
};

}  // namespace sluice
