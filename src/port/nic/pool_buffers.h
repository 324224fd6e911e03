// PoolBuffers: a queue's buffers are the pages of a pool of Sluice's.
#pragma once

#include <cstdint>
#include <vector>

#include "memory/page_set.h"
#include "memory/pool.h"
#include "memory/pool_directory.h"
#include "port/nic/buffer_source.h"

namespace sluice {

// Control thread makes it and destroys it, the worker uses it.
class PoolBuffers final : public BufferSource {
 public:
  // `tx_entries`: of the queue's TX and completion ring. `pools`: those of the arena whose pages may leave by
  // this queue as they are; none: this pool's only.
  PoolBuffers(PagePool& pool, std::uint32_t tx_entries, PoolDirectory* pools = nullptr);

  DomainId domain() const override { return pool_.arena().domain(); }
  const std::byte* memory() const override { return pages_; }
  std::uint32_t room() const override;

  std::uint32_t post(KernelRing<std::uint64_t>& fill, std::uint32_t wanted) override;
  Moved received(const KernelRing<xdp_desc>& rx, std::uint32_t count, std::span<Packet> packets) override;
  void recycle(std::span<const Packet> packets) override;
  Moved send(KernelRing<xdp_desc>& tx, std::uint32_t room, std::span<Packet> packets, How how) override;
  void completed(const KernelRing<std::uint64_t>& completion, std::uint32_t count) override;
  std::uint32_t send_home() override;
  bool all_home() const override { return strays_.empty(); }
  bool reclaim() override;

 private:
  // Who has a page of the pool, as far as this queue is concerned. Private memory: it is what tells which
  // pages are to come home when the socket is closed, whatever the rings say (D7).
  enum class PageState : std::uint8_t {
    kNotHere,  // free, in the worker's hand, lent: nothing that this socket can reach
    kFill,     // posted for the NIC to fill; until its packet is received
    kTx,       // on its way out; until its completion is read
  };
  // What is left of a burst's TX entries, and of the pages that another pool lends for it.
  struct Sending {
    KernelRing<xdp_desc>::Window tx;
    std::uint32_t room;
    std::uint32_t longest;  // frame
    std::uint32_t written = 0;
    PoolDirectory::Entry* lender = nullptr;
    std::uint32_t granted = 0;
    std::uint64_t bytes = 0;
  };

  bool lies_here(const Packet& packet) const;
  bool may_go(Sending& sending, std::uint32_t bytes);
  bool borrow(Sending& sending, PageIndex page, std::uint32_t wanted);
  std::uint32_t send_pages(Sending& sending, std::span<Packet> packets);
  bool send_page(Sending& sending, Packet& packet);
  bool send_copy(Sending& sending, const Packet& packet);
  static void write(Sending& sending, std::uint64_t address, std::uint32_t bytes);
  PageState* state_of(std::uint64_t page);  // null: not of this pool
  PoolDirectory::Entry* lender_of(PageIndex page);

  PagePool& pool_;
  PoolDirectory* const pools_;
  std::byte* const pages_;  // of the arena
  const std::uint32_t page_bytes_;
  const std::uint32_t page_shift_;
  const std::uint32_t first_;      // of the pool
  std::vector<PageState> states_;  // one per page of the pool
  PageSet foreign_;                // of other pools, in our TX ring
  std::vector<PageIndex>
      strays_;  // of other pools, sent; not yet in their return rings. Its room is foreign_'s
  PoolDirectory::Entry* lender_ = nullptr;  // of the last page of another pool
};

}  // namespace sluice
