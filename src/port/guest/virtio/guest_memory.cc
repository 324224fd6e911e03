#include "port/guest/virtio/guest_memory.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace sluice {

GuestMemory::GuestMemory(std::vector<GuestRegion> regions, const std::atomic<bool>* lost)
    : lost_(lost), regions_(std::move(regions)) {
  SLUICE_CHECK(regions_.size() <= kMaxGuestRegions, "{} regions", regions_.size());
  std::ranges::sort(regions_, {}, &GuestRegion::guest_address);
  for (std::size_t i = 1; i < regions_.size(); ++i) {
    const GuestRegion& before = regions_[i - 1];
    SLUICE_CHECK(before.bytes <= regions_[i].guest_address - before.guest_address,
                 "regions at {:#x} and {:#x} overlap", before.guest_address, regions_[i].guest_address);
  }
}

const GuestRegion* GuestMemory::region_of(std::uint64_t guest_address) const {
  auto behind = std::ranges::upper_bound(regions_, guest_address, {}, &GuestRegion::guest_address);
  if (behind == regions_.begin()) {
    return nullptr;
  }
  const GuestRegion& region = *std::prev(behind);
  return guest_address - region.guest_address < region.bytes ? &region : nullptr;
}

std::byte* GuestMemory::at(std::uint64_t guest_address, std::uint64_t bytes) const {
  const GuestRegion* region = region_of(guest_address);
  if (region == nullptr || bytes == 0) {
    return nullptr;
  }
  const std::uint64_t offset = guest_address - region->guest_address;
  return bytes <= region->bytes - offset ? region->data + offset : nullptr;
}

std::span<std::byte> GuestMemory::prefix(std::uint64_t guest_address, std::uint64_t bytes) const {
  const GuestRegion* region = region_of(guest_address);
  if (region == nullptr) {
    return {};
  }
  const std::uint64_t offset = guest_address - region->guest_address;
  return {region->data + offset, std::min(bytes, region->bytes - offset)};
}

std::byte* GuestMemory::at_user(std::uint64_t user_address, std::uint64_t bytes) const {
  for (const GuestRegion& region : regions_) {
    const std::uint64_t offset = user_address - region.user_address;
    if (offset < region.bytes && bytes != 0 && bytes <= region.bytes - offset) {
      return region.data + offset;
    }
  }
  return nullptr;
}

std::byte* GuestWindow::look(std::uint64_t guest_address, std::uint64_t bytes) {
  const GuestRegion* region = memory_->region_of(guest_address);
  if (region == nullptr) {
    return nullptr;
  }
  address_ = region->guest_address;
  bytes_ = region->bytes;
  data_ = region->data;
  const std::uint64_t offset = guest_address - address_;
  return bytes - 1 < bytes_ - offset ? data_ + offset : nullptr;
}

}  // namespace sluice
