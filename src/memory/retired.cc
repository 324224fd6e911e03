#include "memory/retired.h"

#include <map>

#include "base/check.h"
#include "base/log.h"

namespace sluice {

std::string to_string(const StalledPool& pool) {
  std::string text = fmt::format("pool {}: shutdown waits for {} pages since {} s", pool.name, pool.inflight,
                                 pool.waiting_ns / 1'000'000'000);
  std::string separator = ": ";
  for (const StalledPool::Holder& holder : pool.holders) {
    text += fmt::format("{}port {} holds {}", separator, raw(holder.port), holder.pages);
    separator = ", ";
  }
  if (pool.unaccounted != 0) {
    text += fmt::format("{}{} lent to no port (a NIC's rings, or on their way home)", separator,
                        pool.unaccounted);
  }
  return text;
}

RetiredPools::RetiredPools(Report report) : report_(std::move(report)) {
  if (!report_) {
    report_ = [](const StalledPool& pool) { log::warn("{}", to_string(pool)); };
  }
}

RetiredPools::~RetiredPools() {
  turn(0);
  SLUICE_CHECK(pools_.empty(), "{}", to_string(describe(pools_.front(), pools_.front().since_ns)));
}

void RetiredPools::add(std::unique_ptr<PagePool> pool, std::shared_ptr<const Arena> arena,
                       std::shared_ptr<Ledger> ledger, std::uint64_t now_ns) {
  SLUICE_CHECK(&pool->arena() == arena.get(), "pool {} stands on another arena", pool->name());
  pools_.push_back({std::move(arena), std::move(ledger), std::move(pool), now_ns, now_ns});
}

std::uint32_t RetiredPools::turn(std::uint64_t now_ns) {
  std::uint32_t destroyed = 0;
  for (auto retired = pools_.begin(); retired != pools_.end();) {
    if (retired->pool->idle()) {
      retired = pools_.erase(retired);
      ++destroyed;
      continue;
    }
    retired->pool->collect();  // makes room in the return ring: the owner that did so is gone
    if (now_ns >= retired->warned_ns + kWarnEveryNs) {
      retired->warned_ns = now_ns;
      report_(describe(*retired, now_ns));
    }
    ++retired;
  }
  return destroyed;
}

std::vector<StalledPool> RetiredPools::waiting(std::uint64_t now_ns) const {
  std::vector<StalledPool> all;
  for (const Retired& retired : pools_) {
    all.push_back(describe(retired, now_ns));
  }
  return all;
}

StalledPool RetiredPools::describe(const Retired& retired, std::uint64_t now_ns) {
  StalledPool stalled{retired.pool->name(), retired.pool->inflight(), now_ns - retired.since_ns, {}, 0};
  std::uint32_t accounted = 0;
  if (retired.ledger) {
    std::map<PortId, std::uint32_t> pages;
    std::uint32_t first = raw(retired.pool->first());
    for (std::uint32_t page = first; page < first + retired.pool->page_count(); ++page) {
      if (!retired.ledger->covers(PageIndex{page})) {
        continue;
      }
      PortId holder = retired.ledger->holder(PageIndex{page});
      if (holder != PortId::kKernel) {
        ++pages[holder];
        ++accounted;
      }
    }
    for (auto [port, count] : pages) {
      stalled.holders.push_back({port, count});
    }
  }
  stalled.unaccounted = stalled.inflight > accounted ? stalled.inflight - accounted : 0;
  return stalled;
}

}  // namespace sluice
