// GuestMemory: the regions of its memory that a guest gave us, and the only way from an address of the
// guest's to a pointer of ours.
//
// A table never changes once the data path has it: the control thread builds a new one for every change and
// swaps it in between two bursts (LaneTable::pause). Nothing here says that data is copied: what
// translates an address for memcpy today translates it for a UMEM tomorrow.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace sluice {

// Most regions of one guest: what GET_MAX_MEM_SLOTS answers (D6). QEMU's virtio-mem and hot-plug use
// hundreds.
inline constexpr std::size_t kMaxGuestRegions = 509;

// One mapping of ours of a segment of guest memory, however it was made; unmaps it when the last table that
// names it goes. Mapped by memory_table.cc (control), which also watches it for SIGBUS.
class GuestMapping {
 public:
  virtual ~GuestMapping() = default;
  std::byte* data() const { return data_; }
  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t page_bytes() const { return page_bytes_; }  // of the file

  bool populated = false;  // control: every page of it was there once

 protected:
  std::byte* data_ = nullptr;
  std::uint64_t bytes_ = 0;
  std::uint64_t page_bytes_ = 4096;
};

struct GuestRegion {
  std::uint64_t guest_address = 0;  // guest physical: what descriptors hold
  std::uint64_t user_address = 0;   // the front-end's virtual: what SET_VRING_ADDR holds
  std::uint64_t bytes = 0;          // > 0; neither address wraps
  std::byte* data = nullptr;        // where it is mapped here
  std::shared_ptr<GuestMapping> mapping;
};

class GuestMemory {
 public:
  GuestMemory() = default;
  // At most kMaxGuestRegions, none overlapping another in guest addresses (checked by who builds it: a peer's
  // fault is answered before it gets here).
  // `lost` is set when a page of it turns out to be gone; it outlives this.
  explicit GuestMemory(std::vector<GuestRegion> regions, const std::atomic<bool>* lost = nullptr);

  // Worker. The pointer to [address, address + bytes) when it lies wholly in one region; else null. No
  // address and no length makes it read or compute out of range. `bytes` of 0 is null.
  std::byte* at(std::uint64_t guest_address, std::uint64_t bytes) const;
  // Worker, the slow path for a buffer that straddles adjacent regions: the longest prefix that is in one
  // region; empty when the first byte is nowhere.
  std::span<std::byte> prefix(std::uint64_t guest_address, std::uint64_t bytes) const;
  // Control. The same as at() for an address of the front-end's own.
  std::byte* at_user(std::uint64_t user_address, std::uint64_t bytes) const;

  // The region that the byte at `guest_address` is in; null: none.
  const GuestRegion* region_of(std::uint64_t guest_address) const;

  std::span<const GuestRegion> regions() const { return regions_; }
  const std::atomic<bool>* lost() const { return lost_; }

 private:
  const std::atomic<bool>* lost_ = nullptr;
  std::vector<GuestRegion> regions_;  // by guest address
};

// GuestMemory as one virtqueue sees it: remembers the region of the last address, where the next one nearly
// always is too. Worker; the memory is whatever the control thread set last.
class GuestWindow {
 public:
  explicit GuestWindow(const GuestMemory& memory) : memory_(&memory) {}

  // As GuestMemory::at(). `bytes` of 0 wraps to more than any region has.
  std::byte* at(std::uint64_t guest_address, std::uint64_t bytes) {
    const std::uint64_t offset = guest_address - address_;
    if (offset < bytes_ && bytes - 1 < bytes_ - offset) [[likely]] {
      return data_ + offset;
    }
    return look(guest_address, bytes);
  }
  const GuestMemory& memory() const { return *memory_; }

 private:
  std::byte* look(std::uint64_t guest_address, std::uint64_t bytes);

  const GuestMemory* memory_;
  std::uint64_t address_ = 0;
  std::uint64_t bytes_ = 0;  // 0: nothing is in it yet
  std::byte* data_ = nullptr;
};

}  // namespace sluice
