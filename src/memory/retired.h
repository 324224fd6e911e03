// RetiredPools: pools of queues that are closed, some of whose pages are still in other NICs' TX rings. The
// kernel defers a page_pool's destruction in the same way (net/core/page_pool.c, page_pool_release_retry) and
// warns every 60 s.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <string_view>

#include "memory/pool.h"

namespace sluice {

struct StalledPool {
  std::string name;
  std::uint32_t inflight = 0;
  std::uint64_t waiting_ns = 0;  // since it was retired
};

// "pool eth1:0: closed, and waits for 12 pages in other NICs' TX rings since 61 s"
std::string to_string(const StalledPool& pool);

// Control thread only.
class RetiredPools {
 public:
  using Report = std::function<void(const StalledPool&)>;
  // Gets the pool when its last page is home: what it stands on may be used again then.
  using Home = std::function<void(std::unique_ptr<PagePool>)>;
  static constexpr std::uint64_t kWarnEveryNs = 60'000'000'000;

  // `report` is called from turn() for each pool that still waits, every kWarnEveryNs; without one it is a
  // warning in the log.
  explicit RetiredPools(Report report = {});
  // CHECKs that none is left: what still holds pages would be left with memory that is gone.
  ~RetiredPools();

  // The pool has no owner thread any more; other threads may still release_remote() into it. Its memory stays
  // as it is until `home` is called (D7: what can still be read or written is not used again).
  void add(std::unique_ptr<PagePool> pool, Home home, std::uint64_t now_ns);

  // Calls `home` for the pools whose last page has come home; returns how many. A few times per second.
  std::uint32_t turn(std::uint64_t now_ns);

  void visit(const std::function<void(const PagePool&)>& each) const;
  std::size_t count() const { return pools_.size(); }
  std::size_t count(std::string_view name) const;  // of that name

 private:
  struct Retired {
    std::unique_ptr<PagePool> pool;
    Home home;
    std::uint64_t since_ns;
    std::uint64_t warned_ns;
  };
  static StalledPool describe(const Retired& retired, std::uint64_t now_ns);

  Report report_;
  std::list<Retired> pools_;
};

}  // namespace sluice
