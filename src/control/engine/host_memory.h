// HostMemory: the arenas and UMEMs of the domain `host`, and which pages of them belong to which queue's
// pool.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "memory/arena.h"
#include "memory/pool_directory.h"
#include "port/nic/umem.h"

namespace sluice {

// A word of [daemon] huge_pages.
inline ArenaOptions::Huge huge_option(const std::string& text) {
  return text == "never"      ? ArenaOptions::Huge::kNever
         : text == "required" ? ArenaOptions::Huge::kRequired
                              : ArenaOptions::Huge::kIfAny;
}

// Control thread. The first reserve() decides how large the one arena is that all host queues share; a UMEM
// cannot grow (net/xdp/xdp_umem.c), so queues that come later and find no room get one more arena.
class HostMemory {
 public:
  HostMemory(std::uint32_t page_bytes, ArenaOptions::Huge huge) : page_bytes_(page_bytes), huge_(huge) {}

  struct Range {
    Arena* arena = nullptr;
    Umem* umem = nullptr;
    PoolDirectory* pools = nullptr;  // of the arena: a pool over the range is entered there
    PageIndex first{0};
    std::uint32_t page_count = 0;
  };

  // Makes sure that `pages` are there, in one arena: called with the sum over all queues before the first is
  // opened.
  Result<void> reserve(std::uint64_t pages);
  // Pages for one queue's pool.
  Result<Range> take(std::uint32_t pages);
  void give_back(const Range& range);

 private:
  struct Block {
    std::unique_ptr<Arena> arena;
    std::unique_ptr<Umem> umem;  // after the arena: goes first
    std::unique_ptr<PoolDirectory> pools;
    std::map<std::uint32_t, std::uint32_t> free;  // first page -> how many; neighbours are joined
  };
  Result<Range> take_from(Block& block, std::uint32_t pages);

  std::uint32_t page_bytes_;
  ArenaOptions::Huge huge_;
  std::list<Block> blocks_;
};

}  // namespace sluice
