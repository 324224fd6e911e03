#include "port/guest/memory_table.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <limits>
#include <utility>
#include <vector>

#include "base/closer.h"

namespace sluice {

namespace {

constexpr std::uint64_t kOsPage = 4096;

class FileMapping final : public GuestMapping {
 public:
  FileMapping(Mapping mapping, FaultWatch watch, bool huge)
      : huge_pages(huge), mapping_(std::move(mapping)), watch_(std::move(watch)) {
    data_ = mapping_.data();
    bytes_ = mapping_.bytes();
  }
  // The watch ends before the mapping does: an address that is somebody else's is never ours to replace. The
  // last reference to a large guest's memory takes seconds to drop.
  ~FileMapping() override {
    watch_.reset();
    Closer::of_process().run([gone = std::make_shared<Mapping>(std::move(mapping_))] {});
  }

  const bool huge_pages;

 private:
  Mapping mapping_;
  FaultWatch watch_;
};

struct FileKind {
  std::uint64_t bytes = 0;
  std::uint64_t page_bytes = kOsPage;
  bool huge_pages = false;
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

Result<GuestRegion> map_region(const vhost_user_region& region, const PeerFd& file,
                               const LossSignal& signal) {
  auto kind = kind_of(file);
  if (!kind) {
    return std::unexpected(std::move(kind.error()));
  }
  if (wraps(region.file_offset, region.bytes) || region.file_offset + region.bytes > kind->bytes) {
    return fail("a region of {:#x} bytes at offset {:#x} of a file of {:#x} bytes", region.bytes,
                region.file_offset, kind->bytes);
  }
  // Whole pages of the file: hugetlbfs maps nothing else. Both ends stay inside the file's last page.
  const std::uint64_t mask = kind->page_bytes - 1;
  const std::uint64_t from = region.file_offset & ~mask;
  const std::uint64_t length = (region.file_offset - from + region.bytes + mask) & ~mask;
  void* data = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file.get(),
                      static_cast<off_t>(from));
  if (data == MAP_FAILED) {
    return fail_errno(errno, "cannot map a region of {:#x} bytes", region.bytes);
  }
  Mapping mapping = Mapping::adopt(data, length);
  ::madvise(data, length, MADV_DONTDUMP);  // a core file of ours is no place for a guest's memory
  auto watch = FaultWatch::watch({mapping.data(), length}, kind->page_bytes, signal);
  if (!watch) {
    return std::unexpected(std::move(watch.error()));
  }
  std::byte* begin = mapping.data() + (region.file_offset - from);
  return GuestRegion{
      .guest_address = region.guest_address,
      .user_address = region.user_address,
      .bytes = region.bytes,
      .data = begin,
      .mapping = std::make_shared<FileMapping>(std::move(mapping), std::move(*watch), kind->huge_pages)};
}

Result<void> append(std::vector<GuestRegion>& regions, const vhost_user_region& region, const PeerFd& file,
                    const LossSignal& signal) {
  SLUICE_TRY(check_region(region));
  if (regions.size() == kMaxGuestRegions) {
    return fail("more than {} regions", kMaxGuestRegions);
  }
  for (const GuestRegion& other : regions) {
    SLUICE_TRY(check_apart(other, region));
  }
  auto mapped = map_region(region, file, signal);
  if (!mapped) {
    return std::unexpected(std::move(mapped.error()));
  }
  regions.push_back(std::move(*mapped));
  return {};
}

}  // namespace

Result<MemoryTable> make_table(std::span<const vhost_user_region> regions, std::span<const PeerFd> fds,
                               const LossSignal& signal) {
  std::vector<GuestRegion> mapped;
  for (std::size_t i = 0; i < regions.size(); ++i) {
    SLUICE_TRY(append(mapped, regions[i], fds[i], signal));
  }
  return std::make_shared<const GuestMemory>(std::move(mapped), &signal.lost());
}

Result<MemoryTable> table_with(const GuestMemory& table, const vhost_user_region& region, const PeerFd& fd,
                               const LossSignal& signal) {
  std::vector<GuestRegion> regions(table.regions().begin(), table.regions().end());
  const bool known =
      std::ranges::any_of(regions, [&region](const GuestRegion& r) { return is_same(r, region); });
  if (!known) {
    SLUICE_TRY(append(regions, region, fd, signal));
  }
  return std::make_shared<const GuestMemory>(std::move(regions), &signal.lost());
}

Result<MemoryTable> table_without(const GuestMemory& table, const vhost_user_region& region) {
  std::vector<GuestRegion> regions(table.regions().begin(), table.regions().end());
  auto gone = std::erase_if(regions, [&region](const GuestRegion& r) { return is_same(r, region); });
  if (gone == 0) {
    return fail("there is no region of {:#x} bytes at guest address {:#x}", region.bytes,
                region.guest_address);
  }
  return std::make_shared<const GuestMemory>(std::move(regions), table.lost());
}

bool has_huge_pages(const GuestRegion& region) {
  const auto* file = dynamic_cast<const FileMapping*>(region.mapping.get());
  return file != nullptr && file->huge_pages;
}

}  // namespace sluice
