// What a front-end says its guest's memory is, checked and mapped. Control thread.
//
// Every check is made before anything changes, and a table that is in use never changes (guest_memory.h):
// each function here makes a new one, which shares the mappings that stay.
#pragma once

#include <expected>
#include <memory>
#include <span>
#include <string>

#include "abi/vhost_user.h"
#include "base/peer_fd.h"
#include "base/result.h"
#include "port/guest/vhost_user/fault_guard.h"
#include "port/guest/vhost_user/memory_budget.h"
#include "port/guest/vhost_user/message.h"
#include "port/guest/virtio/guest_memory.h"

namespace sluice {

using MemoryTable = std::shared_ptr<const GuestMemory>;

// What a port's memory must be. A region takes room by what is mapped for it: whole pages of its file.
struct MemoryPolicy {
  std::uint64_t table_bytes = MemoryBudget::kNoLimit;  // most that the regions of a table may take together
  // What is mapped, tables that are on their way out included: for this port, and for all.
  MemoryShare::Budget mapped = std::make_shared<MemoryBudget>();
  MemoryShare::Budget mapped_of_all = std::make_shared<MemoryBudget>();
  bool sealed = false;  // files must be sealed against shrinking
  // All of it is there before anybody uses it, so that pages of any size are welcome.
  bool populate = false;
};

// Why a table is refused: the front-end's doing, or the world's (no memory to map with). One sentence, for
// the log.
struct MemoryRefusal {
  MemoryRefusal(VhostFault its_fault, std::string its_sentence)
      : fault(its_fault), sentence(std::move(its_sentence)) {}
  MemoryRefusal(Error error) : sentence(std::move(error.message)) {}  // as SLUICE_TRY returns it
  VhostFault fault = VhostFault::kMemory;
  std::string sentence;
};
using MadeTable = std::expected<MemoryTable, MemoryRefusal>;

// A table of these regions alone. `fds` is parallel to `regions`; the caller keeps and closes them.
MadeTable make_table(std::span<const vhost_user_region> regions, std::span<const PeerFd> fds,
                     const MemoryPolicy& policy, const LossSignal& signal);
// A region that is there already stays as it is: QEMU 7.2 adds each one once for every pair of queues.
MadeTable table_with(const GuestMemory& table, const vhost_user_region& region, const PeerFd& fd,
                     const MemoryPolicy& policy, const LossSignal& signal);
// The region is named by its addresses and size.
MadeTable table_without(const GuestMemory& table, const vhost_user_region& region);
// What the table's regions take.
std::uint64_t bytes_of(const GuestMemory& table);

// Whether the region lies in huge pages of hugetlbfs.
bool has_huge_pages(const GuestRegion& region);

}  // namespace sluice
