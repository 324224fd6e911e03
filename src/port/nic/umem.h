// Umem: an arena registered with the kernel (XDP_UMEM_REG), for all queues of its domain.
//
// The queues of one NIC share one registration (XDP_SHARED_UMEM): its pages are pinned and mapped for DMA
// once. Each further NIC gets a registration of its own over the same memory, because the kernel makes a
// registration either zero copy or copy as a whole (net/xdp/xsk_buff_pool.c, xp_assign_dev_shared), which
// would tie a fast NIC to a slow one. Addresses are offsets in the arena in all of them, so a page received
// on one NIC is sent on another as it is.
//
// The system calls are made here and not by libxdp, which keeps the first socket of a UMEM open until the
// UMEM goes: that queue could neither be closed nor opened again while another one is in use.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "abi/packet_meta.h"
#include "base/choices.h"
#include "base/fd.h"
#include "base/ids.h"
#include "base/result.h"
#include "memory/arena.h"
#include "memory/pool.h"

namespace sluice {

// Where a frame begins in its page: behind what the kernel keeps free (XDP_PACKET_HEADROOM, 256 bytes) and
// the metadata. So the metadata and the frame's headers stand in one cache line, which is all that a worker
// and most apps read of a page, and all that there is of a short frame: the kernel's next write to the page,
// on another CPU, has one line to fetch back and not two.
inline constexpr std::uint32_t kFrameOffset = 256 + sizeof(sluice_packet_meta);

// Control thread, except pool_of().
class Umem {
 public:
  // The arena must outlive it. Errors say what to do: too little locked memory, no AF_XDP in this kernel, no
  // privilege. Sockets belong to the network namespace of the calling thread.
  static Result<std::unique_ptr<Umem>> create(Arena& arena);
  ~Umem();
  Arena& arena() const { return arena_; }

  // Queues and the pools that their pages come from; more is refused.
  static constexpr std::uint32_t kMaxPools = 4096;

  // --- for NicQueue ---
  // A socket that has the arena registered and is not bound.
  Result<UniqueFd> registered_socket();
  // A bound socket whose registration a new queue of this NIC may share; -1: none.
  int sibling(int ifindex, BindMode mode) const;
  void joined(int fd, int ifindex, bool zero_copy);
  void left(int fd);

  // A page of the arena may be sent by a queue whose pool it does not come from: on its way home it goes
  // through the ring of its own pool. A pool is known from the opening of its queue until it has no page left
  // in any TX ring.
  Result<void> add_pool(PagePool& pool);
  void forget_pool(PagePool& pool);
  PagePool* pool_of(PageIndex page) const;  // any thread; nullptr: of no pool we know
  // Pages of this pool that other queues' sockets hold now.
  void lent_to_sibling(PageIndex page, std::int32_t count);  // any thread
  std::int32_t at_siblings(const PagePool& pool) const;

 private:
  explicit Umem(Arena& arena);
  struct Bound {
    int fd;
    int ifindex;
    bool zero_copy;
  };
  struct Slot {
    std::atomic<PagePool*> pool{nullptr};
    std::atomic<std::int32_t> at_siblings{0};
  };
  Slot* slot_of(PageIndex page) const;

  Arena& arena_;
  UniqueFd spare_;  // registered by create(), for the first queue
  std::vector<Bound> bound_;
  std::unique_ptr<std::array<Slot, kMaxPools>> slots_;
  std::atomic<std::uint32_t> slot_count_{0};
};

}  // namespace sluice
