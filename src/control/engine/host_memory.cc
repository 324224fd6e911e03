#include "control/engine/host_memory.h"

#include "base/check.h"
#include "base/log.h"

namespace sluice {

Result<void> HostMemory::reserve(std::uint64_t pages) {
  for (const Block& block : blocks_) {
    for (const auto& [first, count] : block.free) {
      if (count >= pages) {
        return {};
      }
    }
  }
  if (pages > (std::uint64_t{1} << 31)) {
    return fail("{} pages for the NICs' queues are more than an arena can have; make nic.*.ring smaller",
                pages);
  }
  ArenaOptions options;
  options.name = "host";
  options.domain = DomainId::kHost;
  options.page_bytes = page_bytes_;
  options.page_count = static_cast<std::uint32_t>(pages);
  options.huge = huge_;
  auto arena = Arena::create(options);
  if (!arena) {
    return with_context("memory for the NICs' queues", arena.error());
  }
  Block block;
  block.arena = std::make_unique<Arena>(std::move(*arena));
  auto umem = Umem::create(*block.arena);
  if (!umem) {
    return with_context("memory for the NICs' queues", umem.error());
  }
  block.umem = std::move(*umem);
  block.pools = std::make_unique<PoolDirectory>();
  block.free[0] = block.arena->page_count();
  log::info("host arena: {} pages of {} bytes in {} pages", block.arena->page_count(), page_bytes_,
            name_of(block.arena->page_kind()));
  blocks_.push_back(std::move(block));
  return {};
}

Result<HostMemory::Range> HostMemory::take_from(Block& block, std::uint32_t pages) {
  for (auto it = block.free.begin(); it != block.free.end(); ++it) {
    auto [first, count] = *it;
    if (count < pages) {
      continue;
    }
    block.free.erase(it);
    if (count > pages) {
      block.free[first + pages] = count - pages;
    }
    return Range{block.arena.get(), block.umem.get(), block.pools.get(), PageIndex{first}, pages};
  }
  return fail("no room");
}

Result<HostMemory::Range> HostMemory::take(std::uint32_t pages) {
  SLUICE_TRY(reserve(pages));
  for (Block& block : blocks_) {
    if (auto range = take_from(block, pages)) {
      return range;
    }
  }
  SLUICE_CHECK(false, "reserve({}) found room and take() did not", pages);
  return fail("unreachable");
}

void HostMemory::give_back(const Range& range) {
  for (Block& block : blocks_) {
    if (block.arena.get() != range.arena) {
      continue;
    }
    auto [it, inserted] = block.free.emplace(raw(range.first), range.page_count);
    SLUICE_CHECK(inserted, "pages from {} given back twice", raw(range.first));
    auto next = std::next(it);
    if (next != block.free.end() && it->first + it->second == next->first) {
      it->second += next->second;
      block.free.erase(next);
    }
    if (it != block.free.begin()) {
      auto before = std::prev(it);
      if (before->first + before->second == it->first) {
        before->second += it->second;
        block.free.erase(it);
      }
    }
    return;
  }
  SLUICE_CHECK(false, "pages of an unknown arena");
}

}  // namespace sluice
