// RetiredPools: pools whose session is over and whose pages are not all home yet. The kernel defers a
// page_pool's destruction in the same way (net/core/page_pool.c, page_pool_release_retry) and warns every 60
// s.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "memory/arena.h"
#include "memory/ledger.h"
#include "memory/pool.h"

namespace sluice {

struct StalledPool {
  std::string name;
  std::uint32_t inflight = 0;
  std::uint64_t waiting_ns = 0;  // since it was retired
  struct Holder {
    PortId port;
    std::uint32_t pages;
  };
  std::vector<Holder> holders;    // by port id
  std::uint32_t unaccounted = 0;  // in flight and not in the ledger: in a NIC's rings, or on their way home
};

// "pool dns/0: shutdown waits for 12 pages since 61 s: port 5 holds 12"
std::string to_string(const StalledPool& pool);

// Control thread only.
class RetiredPools {
 public:
  using Report = std::function<void(const StalledPool&)>;
  static constexpr std::uint64_t kWarnEveryNs = 60'000'000'000;

  // `report` is called from turn() for each pool that still waits, every kWarnEveryNs; without one it is a
  // warning in the log.
  explicit RetiredPools(Report report = {});
  // CHECKs that none is left: what still holds pages would be left with memory that is gone.
  ~RetiredPools();

  // The pool has no owner thread any more; other threads may still release_remote() into it. `ledger` may be
  // null. The arena, and the ledger, live until the pool is destroyed (D7: what can still be written to is
  // not unmapped).
  void add(std::unique_ptr<PagePool> pool, std::shared_ptr<const Arena> arena, std::shared_ptr<Ledger> ledger,
           std::uint64_t now_ns);

  // Destroys the pools whose last page has come home; returns how many. Call it a few times per second.
  std::uint32_t turn(std::uint64_t now_ns);

  std::vector<StalledPool> waiting(std::uint64_t now_ns) const;
  std::size_t count() const { return pools_.size(); }

 private:
  struct Retired {  // destroyed from the last member to the first: the pool before what it stands on
    std::shared_ptr<const Arena> arena;
    std::shared_ptr<Ledger> ledger;
    std::unique_ptr<PagePool> pool;
    std::uint64_t since_ns;
    std::uint64_t warned_ns;
  };
  static StalledPool describe(const Retired& retired, std::uint64_t now_ns);

  Report report_;
  std::list<Retired> pools_;
};

}  // namespace sluice
