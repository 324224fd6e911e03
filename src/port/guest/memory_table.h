// What a front-end says its guest's memory is, checked and mapped. Control thread.
//
// Every check is made before anything changes, and a table that is in use never changes (guest_memory.h):
// each function here makes a new one, which shares the mappings that stay.
#pragma once

#include <memory>
#include <span>

#include "abi/vhost_user.h"
#include "base/peer_fd.h"
#include "base/result.h"
#include "port/guest/fault_guard.h"
#include "port/guest/guest_memory.h"

namespace sluice {

// Errors are the front-end's doing, or the world's (no memory to map with): one sentence, for the log.
using MemoryTable = std::shared_ptr<const GuestMemory>;

// A table of these regions alone. `fds` is parallel to `regions`; the caller keeps and closes them.
Result<MemoryTable> make_table(std::span<const vhost_user_region> regions, std::span<const PeerFd> fds,
                               const LossSignal& signal);
// A region that is there already stays as it is: QEMU 7.2 adds each one once for every pair of queues.
Result<MemoryTable> table_with(const GuestMemory& table, const vhost_user_region& region, const PeerFd& fd,
                               const LossSignal& signal);
// The region is named by its addresses and size.
Result<MemoryTable> table_without(const GuestMemory& table, const vhost_user_region& region);

// Whether the region lies in huge pages of hugetlbfs.
bool has_huge_pages(const GuestRegion& region);

}  // namespace sluice
