#include "port/guest/vhost_user/memory_table.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <limits>
#include <new>
#include <utility>
#include <vector>

#include "base/closer.h"

namespace sluice {

namespace {

constexpr std::uint64_t kOsPage = 4096;
// Larger pages take long to clear, and a worker's touch would: 1 GiB is a tenth of a second and more.
constexpr std::uint64_t kMostPageBytes = std::uint64_t{2} << 20;

#ifndef F_GET_SEALS
#define F_GET_SEALS 1034
#endif

struct FileKind {
  std::uint64_t bytes = 0;
  std::uint64_t page_bytes = kOsPage;
  bool huge_pages = false;
};

// In this order, so that room is given back when the mapping is really gone.
struct CountedMapping {
  MemoryShare share;
  Mapping mapping;
};

class FileMapping final : public GuestMapping {
 public:
  FileMapping(std::shared_ptr<CountedMapping> counted, FaultWatch watch, const FileKind& kind)
      : huge_pages(kind.huge_pages), counted_(std::move(counted)), watch_(std::move(watch)) {
    data_ = counted_->mapping.data();
    bytes_ = counted_->mapping.bytes();
    page_bytes_ = kind.page_bytes;
  }
  // The watch ends before the mapping does: an address that is somebody else's is never ours to replace. The
  // last reference to a large guest's memory takes seconds to drop.
  ~FileMapping() override {
    watch_.reset();
    try {
      Closer::of_process().run([gone = std::move(counted_)] {});
    } catch (const std::bad_alloc&) {
      // Dropped here by now: nobody is left to do it elsewhere.
    }
  }

  const bool huge_pages;

 private:
  std::shared_ptr<CountedMapping> counted_;
  FaultWatch watch_;
};

bool wraps(std::uint64_t begin, std::uint64_t bytes) {
  return bytes > std::numeric_limits<std::uint64_t>::max() - begin;
}

// Whether two ranges, neither of which wraps, have a byte in common.
bool overlap(std::uint64_t a, std::uint64_t a_bytes, std::uint64_t b, std::uint64_t b_bytes) {
  return a < b + b_bytes && b < a + a_bytes;
}

Result<void> check_region(const vhost_user_region& region) {
  if (region.bytes == 0) {
    return fail("a region without bytes");
  }
  if (wraps(region.guest_address, region.bytes) || wraps(region.user_address, region.bytes)) {
    return fail("a region of {:#x} bytes at {:#x} runs over the end of the address space", region.bytes,
                region.guest_address);
  }
  return {};
}

Result<void> check_apart(const GuestRegion& other, const vhost_user_region& region) {
  if (overlap(other.guest_address, other.bytes, region.guest_address, region.bytes)) {
    return fail("regions overlap at guest address {:#x}",
                std::max(other.guest_address, region.guest_address));
  }
  if (overlap(other.user_address, other.bytes, region.user_address, region.bytes)) {
    return fail("regions overlap at the front-end's address {:#x}",
                std::max(other.user_address, region.user_address));
  }
  return {};
}

bool is_same(const GuestRegion& region, const vhost_user_region& named) {
  return region.guest_address == named.guest_address && region.user_address == named.user_address &&
         region.bytes == named.bytes;
}

// Only memory of the kernel's own: behind any other file is a disk or, with FUSE, the front-end itself, and
// a page that it brings when it likes stops the worker that touches it. What was received is known to be none
// of these (base/peer_fd.h), so the kernel alone answers here.
Result<FileKind> kind_of(const PeerFd& file) {
  if (!file.is_memory()) {
    return fail("a region's file is on no memory file system; use a memfd, /dev/shm or hugetlbfs");
  }
  struct stat status;
  struct statfs system;
  const int flags = ::fcntl(file.get(), F_GETFL);
  if (flags < 0 || ::fstat(file.get(), &status) < 0 || ::fstatfs(file.get(), &system) < 0) {
    return fail_errno(errno, "a region's descriptor cannot be looked at");
  }
  if ((flags & O_ACCMODE) != O_RDWR || !S_ISREG(status.st_mode)) {
    return fail("a region's descriptor is no file opened for reading and writing");
  }
  FileKind kind{.bytes = static_cast<std::uint64_t>(status.st_size)};
  if (file.kind() == PeerFd::Kind::kHugePages) {
    kind.page_bytes = static_cast<std::uint64_t>(system.f_bsize);
    kind.huge_pages = true;
  }
  if (!std::has_single_bit(kind.page_bytes)) {
    return fail("a region's file has pages of {} bytes", kind.page_bytes);
  }
  return kind;
}

// A region that was judged, and nothing done about it.
struct Plan {
  vhost_user_region region;
  const PeerFd* file = nullptr;
  FileKind kind;
  // Whole pages of the file: hugetlbfs maps nothing else. Both ends stay inside the file's last page.
  std::uint64_t from = 0, length = 0;
};

std::expected<Plan, MemoryRefusal> plan_of(const vhost_user_region& region, const PeerFd& file,
                                           const MemoryPolicy& policy) {
  SLUICE_TRY(check_region(region));
  auto kind = kind_of(file);
  SLUICE_TRY(kind);
  if (wraps(region.file_offset, region.bytes) || region.file_offset + region.bytes > kind->bytes) {
    return fail("a region of {:#x} bytes at offset {:#x} of a file of {:#x} bytes", region.bytes,
                region.file_offset, kind->bytes);
  }
  if (const int seals = policy.sealed ? ::fcntl(file.get(), F_GET_SEALS) : F_SEAL_SHRINK;
      seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return std::unexpected(MemoryRefusal(VhostFault::kUnsealed,
                                         "a region's file is not sealed against shrinking (sealed_memory); "
                                         "QEMU: memory-backend-memfd, seal=on"));
  }
  if (kind->page_bytes > kMostPageBytes && !policy.populate) {
    return std::unexpected(MemoryRefusal(
        VhostFault::kPageSize, fmt::format("a region's file has pages of {} MiB, which needs populate = true",
                                           kind->page_bytes >> 20)));
  }
  const std::uint64_t mask = kind->page_bytes - 1;
  const std::uint64_t from = region.file_offset & ~mask;
  const std::uint64_t length = (region.file_offset - from + region.bytes + mask) & ~mask;
  return Plan{.region = region, .file = &file, .kind = *kind, .from = from, .length = length};
}

// Whether there is room for the plans beside `present` bytes of the same table.
std::expected<void, MemoryRefusal> check_room(std::uint64_t present, std::span<const Plan> plans,
                                              const MemoryPolicy& policy) {
  std::uint64_t sum = present;
  for (const Plan& plan : plans) {
    if (sum > policy.table_bytes || plan.length > policy.table_bytes - sum) {
      return std::unexpected(
          MemoryRefusal(VhostFault::kBudget,
                        fmt::format("{} MiB of memory and {} MiB more; the port may have {} MiB (memory)",
                                    sum >> 20, plan.length >> 20, policy.table_bytes >> 20)));
    }
    sum += plan.length;
  }
  return {};
}

std::expected<GuestRegion, MemoryRefusal> map_region(const Plan& plan, const MemoryPolicy& policy,
                                                     const LossSignal& signal) {
  const vhost_user_region& region = plan.region;
  auto share = MemoryShare::take(policy.mapped, policy.mapped_of_all, plan.length);
  if (!share) {
    return std::unexpected(MemoryRefusal(
        VhostFault::kBudget,
        fmt::format("{} MiB more; all guests together have {} of {} MiB (guest_memory)", plan.length >> 20,
                    policy.mapped_of_all->used() >> 20, policy.mapped_of_all->limit() >> 20)));
  }
  void* data = ::mmap(nullptr, plan.length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                      plan.file->get(), static_cast<off_t>(plan.from));
  if (data == MAP_FAILED) {
    return fail_errno(errno, "cannot map a region of {:#x} bytes", region.bytes);
  }
  auto counted = std::make_shared<CountedMapping>(std::move(*share), Mapping::adopt(data, plan.length));
  ::madvise(data, plan.length, MADV_DONTDUMP);  // a core file of ours is no place for a guest's memory
  std::byte* const mapped = counted->mapping.data();
  auto watch = SLUICE_TRY(FaultWatch::watch({mapped, plan.length}, plan.kind.page_bytes, signal));
  return GuestRegion{
      .guest_address = region.guest_address,
      .user_address = region.user_address,
      .bytes = region.bytes,
      .data = mapped + (region.file_offset - plan.from),
      .mapping = std::make_shared<FileMapping>(std::move(counted), std::move(watch), plan.kind)};
}

std::expected<void, MemoryRefusal> append(std::vector<GuestRegion>& regions, const Plan& plan,
                                          const MemoryPolicy& policy, const LossSignal& signal) {
  if (regions.size() == kMaxGuestRegions) {
    return fail("more than {} regions", kMaxGuestRegions);
  }
  for (const GuestRegion& other : regions) {
    SLUICE_TRY(check_apart(other, plan.region));
  }
  auto mapped = SLUICE_TRY(map_region(plan, policy, signal));
  regions.push_back(std::move(mapped));
  return {};
}

}  // namespace

MadeTable make_table(std::span<const vhost_user_region> regions, std::span<const PeerFd> fds,
                     const MemoryPolicy& policy, const LossSignal& signal) {
  std::vector<Plan> plans;
  for (std::size_t i = 0; i < regions.size(); ++i) {
    auto plan = SLUICE_TRY(plan_of(regions[i], fds[i], policy));
    plans.push_back(plan);
  }
  SLUICE_TRY(check_room(0, plans, policy));
  std::vector<GuestRegion> mapped;
  for (const Plan& plan : plans) {
    SLUICE_TRY(append(mapped, plan, policy, signal));
  }
  return std::make_shared<const GuestMemory>(std::move(mapped), &signal.lost());
}

MadeTable table_with(const GuestMemory& table, const vhost_user_region& region, const PeerFd& fd,
                     const MemoryPolicy& policy, const LossSignal& signal) {
  std::vector<GuestRegion> regions(table.regions().begin(), table.regions().end());
  const bool known =
      std::ranges::any_of(regions, [&region](const GuestRegion& r) { return is_same(r, region); });
  if (!known) {
    auto plan = SLUICE_TRY(plan_of(region, fd, policy));
    SLUICE_TRY(check_room(bytes_of(table), std::span(&plan, 1), policy));
    SLUICE_TRY(append(regions, plan, policy, signal));
  }
  return std::make_shared<const GuestMemory>(std::move(regions), &signal.lost());
}

MadeTable table_without(const GuestMemory& table, const vhost_user_region& region) {
  std::vector<GuestRegion> regions(table.regions().begin(), table.regions().end());
  auto gone = std::erase_if(regions, [&region](const GuestRegion& r) { return is_same(r, region); });
  if (gone == 0) {
    return fail("there is no region of {:#x} bytes at guest address {:#x}", region.bytes,
                region.guest_address);
  }
  return std::make_shared<const GuestMemory>(std::move(regions), table.lost());
}

std::uint64_t bytes_of(const GuestMemory& table) {
  std::uint64_t sum = 0;  // mapped together, so it does not wrap
  for (const GuestRegion& region : table.regions()) {
    sum += region.mapping->bytes();
  }
  return sum;
}

bool has_huge_pages(const GuestRegion& region) {
  const auto* file = dynamic_cast<const FileMapping*>(region.mapping.get());
  return file != nullptr && file->huge_pages;
}

}  // namespace sluice
