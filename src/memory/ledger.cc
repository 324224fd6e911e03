#include "memory/ledger.h"

#include "base/check.h"

namespace sluice {

Ledger::Ledger(PageIndex first, std::uint32_t page_count)
    : first_(raw(first)),
      page_count_(page_count),
      holders_(std::make_unique<std::atomic<PortId>[]>(page_count)),  // zero is kNobody
      lent_(std::make_unique<std::atomic<std::uint32_t>[]>(kMaxPorts)) {
  static_assert(raw(kNobody) == 0);
}

void Ledger::bad_holder(PortId holder) {
  SLUICE_CHECK(is_holder(holder), "port {} cannot hold pages", raw(holder));
  __builtin_unreachable();
}

void Ledger::bad_lend(std::uint32_t slot, PortId holder) const {
  SLUICE_CHECK(slot < page_count_, "page {} is not in this ledger of {} .. {}", first_ + slot, first_,
               first_ + page_count_ - 1);
  SLUICE_CHECK(is_holder(holder), "port {} cannot hold pages", raw(holder));
  SLUICE_CHECK(false, "page {} for port {} is lent to port {} already", first_ + slot, raw(holder),
               raw(holders_[slot].load(std::memory_order_relaxed)));
  __builtin_unreachable();
}

std::uint32_t Ledger::reclaim(PortId holder, const std::function<void(PageIndex)>& home) {
  SLUICE_CHECK(is_holder(holder), "holder {}", raw(holder));
  std::uint32_t count = 0;
  for (std::uint32_t slot = 0; slot < page_count_ && lent(holder) != 0; ++slot) {
    if (holders_[slot].load(std::memory_order_relaxed) == holder) {
      holders_[slot].store(kNobody, std::memory_order_relaxed);
      add_lent(holder, -1);
      ++count;
      home(PageIndex{first_ + slot});
    }
  }
  return count;
}

PortId Ledger::holder(PageIndex page) const {
  std::uint32_t slot = raw(page) - first_;
  SLUICE_CHECK(slot < page_count_, "page {}", raw(page));
  return holders_[slot].load(std::memory_order_relaxed);
}

std::uint32_t Ledger::lent(PortId holder) const {
  SLUICE_CHECK(raw(holder) < kMaxPorts, "port {}", raw(holder));
  return lent_[raw(holder)].load(std::memory_order_relaxed);
}

}  // namespace sluice
