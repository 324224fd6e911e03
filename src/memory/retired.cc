#include "memory/retired.h"

#include <algorithm>

#include "base/check.h"
#include "base/log.h"

namespace sluice {

std::string to_string(const StalledPool& pool) {
  return fmt::format("pool {}: closed, and waits for {} pages in other NICs' TX rings since {} s", pool.name,
                     pool.inflight, pool.waiting_ns / 1'000'000'000);
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

void RetiredPools::add(std::unique_ptr<PagePool> pool, Home home, std::uint64_t now_ns) {
  pools_.push_back({std::move(pool), std::move(home), now_ns, now_ns});
}

std::uint32_t RetiredPools::turn(std::uint64_t now_ns) {
  std::uint32_t at_home = 0;
  for (auto retired = pools_.begin(); retired != pools_.end();) {
    if (retired->pool->idle()) {
      retired->home(std::move(retired->pool));
      retired = pools_.erase(retired);
      ++at_home;
      continue;
    }
    retired->pool->collect();  // makes room in the return ring: the owner that did so is gone
    if (now_ns >= retired->warned_ns + kWarnEveryNs) {
      retired->warned_ns = now_ns;
      report_(describe(*retired, now_ns));
    }
    ++retired;
  }
  return at_home;
}

void RetiredPools::visit(const std::function<void(const PagePool&)>& each) const {
  for (const Retired& retired : pools_) {
    each(*retired.pool);
  }
}

std::size_t RetiredPools::count(std::string_view name) const {
  return static_cast<std::size_t>(
      std::ranges::count_if(pools_, [name](const Retired& retired) { return retired.pool->name() == name; }));
}

StalledPool RetiredPools::describe(const Retired& retired, std::uint64_t now_ns) {
  return {retired.pool->name(), retired.pool->inflight(), now_ns - retired.since_ns};
}

}  // namespace sluice
