#include "memory/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "base/map_shared.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U  // Linux 6.3, include/uapi/linux/memfd.h
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010  // Linux 5.1
#endif

namespace sluice {
namespace {

constexpr int kSealedSize = F_SEAL_SHRINK | F_SEAL_GROW;
// D4. Not F_SEAL_WRITE: the kernel refuses it while a writable mapping (ours) exists.
constexpr int kSealedForReaders = kSealedSize | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL;
// What a reader may open again. Only the second lock on the door: the file's owner can change it, the seals
// stay.
constexpr unsigned kReadersMode = 0444;

constexpr std::size_t round_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

struct Memory {
  UniqueFd memfd;
  Mapping mapping;
  PageKind kind = PageKind::kSmall;
};

Result<UniqueFd> make_memfd(SystemCalls& calls, const std::string& name, unsigned more_flags) {
  std::string full_name = "sluice-" + name;
  unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | more_flags;
  int fd = calls.memfd_create(full_name.c_str(), flags | MFD_NOEXEC_SEAL);
  if (fd < 0 && errno == EINVAL) {
    fd = calls.memfd_create(full_name.c_str(), flags);  // before Linux 6.3
  }
  if (fd < 0) {
    return fail_errno(errno, "cannot make a memfd for {}", name);
  }
  return UniqueFd(fd);
}

// A memfd of `bytes`, every page of it allocated and mapped. Of transparent huge pages only as far as they
// can be had; `kind` says so when that is all the way. fallocate and not the mapping is what commits: a
// hugetlb reservation can still end in SIGBUS (cgroup limit, cpuset), and so can shmem under strict
// overcommit.
Result<Memory> make_memory(SystemCalls& calls, const std::string& name, std::size_t bytes, int protection,
                           PageKind wanted = PageKind::kSmall) {
  auto memfd = make_memfd(calls, name, wanted == PageKind::kReservedHuge ? MFD_HUGETLB | MFD_HUGE_2MB : 0);
  if (!memfd) {
    return std::unexpected(memfd.error());
  }
  Memory memory{std::move(*memfd), {}, wanted};
  if (calls.ftruncate(memory.memfd.get(), bytes) < 0) {
    return fail_errno(errno, "cannot give the memfd of {} its {} bytes", name, bytes);
  }
  if (wanted == PageKind::kTransparentHuge && calls.collapse(memory.memfd.get(), bytes) < 0) {
    memory.kind = PageKind::kSmall;
  }
  if (calls.fallocate(memory.memfd.get(), bytes) < 0) {
    return fail_errno(errno, "not enough memory for the {} bytes of {}", bytes, name);
  }
  void* data = calls.mmap(bytes, protection, memory.memfd.get());
  if (data == MAP_FAILED) {
    return fail_errno(errno, "cannot map the {} bytes of {}", bytes, name);
  }
  memory.mapping = Mapping::adopt(data, bytes);
  ::madvise(data, bytes, MADV_DONTDUMP);  // packets are nobody's who reads a core file of ours
  return memory;
}

Result<void> seal(SystemCalls& calls, const std::string& name, int fd, int seals) {
  if (calls.add_seals(fd, seals) < 0) {
    int error = errno;
    return fail_errno(error, "cannot seal the memory of {} (Sluice needs Linux 5.1 or later)", name);
  }
  return {};
}

Result<void> seal_for_readers(SystemCalls& calls, const std::string& name, int fd) {
  if (calls.fchmod(fd, kReadersMode) < 0) {
    return fail_errno(errno, "cannot make the memory of {} read-only", name);
  }
  return seal(calls, name, fd, kSealedForReaders);
}

Result<UniqueFd> open_read_only(SystemCalls& calls, int memfd) {
  UniqueFd fd(calls.open_read_only(memfd));
  if (!fd) {
    return fail_errno(errno, "cannot open /proc/self/fd/{} read-only (is /proc mounted?)", memfd);
  }
  return fd;
}

Result<void> check(const ArenaOptions& options) {
  if (options.page_bytes != 2048 && options.page_bytes != 4096) {
    return fail("arena {}: page_bytes is {}; it must be 2048 or 4096, an AF_XDP chunk", options.name,
                options.page_bytes);
  }
  if (options.page_count == 0 || options.page_count > kMaxPages) {
    return fail("arena {}: page_count is {}; it must be 1 .. {}", options.name, options.page_count,
                kMaxPages);
  }
  if (options.name.size() > kMaxArenaName) {
    return fail("the name of an arena has {} bytes; at most {} are allowed", options.name.size(),
                kMaxArenaName);
  }
  return {};
}

// The message for somebody who asked for huge pages and cannot have them.
Error huge_pages_missing(const ArenaOptions& options, std::size_t bytes, const Error& cause) {
  return Error{
      fmt::format(
          "arena {} needs {} free huge pages of 2 MiB: {}; reserve more of them (sysctl vm.nr_hugepages), "
          "or set huge_pages = \"auto\"",
          options.name, bytes / kHugePageBytes, cause.message),
      cause.os_errno};
}

Result<Memory> make_arena_memory(SystemCalls& calls, const ArenaOptions& options) {
  std::size_t wanted = std::size_t{options.page_count} * options.page_bytes;
  if (options.huge != ArenaOptions::Huge::kNever) {
    std::size_t bytes = round_up(wanted, kHugePageBytes);
    auto memory = make_memory(calls, options.name, bytes, PROT_READ | PROT_WRITE, PageKind::kReservedHuge);
    if (memory) {
      return memory;
    }
    if (options.huge == ArenaOptions::Huge::kRequired) {
      return std::unexpected(huge_pages_missing(options, bytes, memory.error()));
    }
  }
  std::size_t bytes = round_up(wanted, static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)));
  // Asked first: allocating more than there is does not fail, it wakes the kernel's OOM killer.
  if (std::size_t available = calls.available_bytes(); bytes > available) {
    return fail("arena {} needs {} MiB of memory, {} MiB are available: configure fewer pages", options.name,
                bytes >> 20, available >> 20);
  }
  const bool transparent = options.huge == ArenaOptions::Huge::kIfAny && bytes >= kHugePageBytes;
  auto memory = make_memory(calls, options.name, bytes, PROT_READ | PROT_WRITE,
                            transparent ? PageKind::kTransparentHuge : PageKind::kSmall);
  if (!memory) {
    return with_context("arena", memory.error());
  }
  return memory;
}

}  // namespace

std::string_view name_of(PageKind kind) {
  switch (kind) {
    case PageKind::kSmall:
      return "small";
    case PageKind::kTransparentHuge:
      return "transparent huge";
    case PageKind::kReservedHuge:
      return "reserved huge";
  }
  return "?";
}

Result<Arena> Arena::create(const ArenaOptions& options, SystemCalls& calls) {
  SLUICE_TRY(check(options));
  auto made = make_arena_memory(calls, options);
  if (!made) {
    return std::unexpected(std::move(made.error()));
  }
  // D4: after our own mapping, the last that may write.
  SLUICE_TRY(seal_for_readers(calls, options.name, made->memfd.get()));
  Arena arena;
  arena.memfd_ = std::move(made->memfd);
  arena.mapping_ = std::move(made->mapping);
  arena.page_bytes_ = options.page_bytes;
  arena.page_count_ = static_cast<std::uint32_t>(arena.mapping_.bytes() / options.page_bytes);
  arena.domain_ = options.domain;
  arena.page_kind_ = made->kind;
  return arena;
}

Result<UniqueFd> Arena::read_only_fd(SystemCalls& calls) const {
  return open_read_only(calls, memfd_.get());
}

Result<SharedSegment> create_peer_writable(const std::string& name, std::size_t bytes, int protection,
                                           SystemCalls& calls) {
  auto memory = make_memory(calls, name, bytes, protection);
  if (!memory) {
    return std::unexpected(std::move(memory.error()));
  }
  SLUICE_TRY(seal(calls, name, memory->memfd.get(), kSealedSize));
  return SharedSegment{std::move(memory->memfd), std::move(memory->mapping)};
}

Result<void> seal_peer_writable(const std::string& name, int fd, std::size_t bytes, SystemCalls& calls) {
  SLUICE_TRY(seal(calls, name, fd, kSealedForReaders));
  // What was punched before comes back now: with a hole our reads would need memory that may not be there.
  if (calls.fallocate(fd, bytes) < 0) {
    return fail_errno(errno, "not enough memory for the {} bytes of {}", bytes, name);
  }
  return {};
}

Result<SharedSegment> create_peer_readable(const std::string& name, std::size_t bytes, SystemCalls& calls) {
  auto memory = make_memory(calls, name, bytes, PROT_READ | PROT_WRITE);
  if (!memory) {
    return std::unexpected(std::move(memory.error()));
  }
  SLUICE_TRY(seal_for_readers(calls, name, memory->memfd.get()));
  auto read_only = open_read_only(calls, memory->memfd.get());
  if (!read_only) {
    return std::unexpected(std::move(read_only.error()));
  }
  return SharedSegment{std::move(*read_only), std::move(memory->mapping)};
}

}  // namespace sluice
