// Arena: one mapping of pages, one memfd, one protection domain from its creation to its end (D1).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/ids.h"
#include "base/result.h"
#include "memory/system_calls.h"

namespace sluice {

struct ArenaOptions {
  std::string name;  // shows in /proc/PID/maps as memfd:sluice-NAME; at most kMaxArenaName bytes
  DomainId domain = DomainId::kHost;
  std::uint32_t page_bytes = 2048;  // 2048 or 4096: one AF_XDP chunk (XDP_UMEM_REG)
  std::uint32_t page_count = 0;     // 1 .. 2^31; rounded up so that the memfd is whole (huge) pages
  // kIfAny: reserved ones, else transparent ones, else small pages. kRequired: reserved ones, or an error.
  enum class Huge { kIfAny, kNever, kRequired } huge = Huge::kIfAny;
};

enum class PageKind : std::uint8_t { kSmall, kTransparentHuge, kReservedHuge };
std::string_view name_of(PageKind kind);  // "small", "transparent huge", "reserved huge"

inline constexpr std::uint32_t kMaxPages = std::uint32_t{1} << 31;  // of one arena
inline constexpr std::size_t kMaxArenaName = 200;  // memfd_create(2) allows 249 with our "sluice-" in front

// Zeroed by the kernel, mapped read-write here, then sealed so that nobody, we included, can get another
// writable mapping, resize it or unseal it (D4). Every page is allocated before create() returns, so that no
// access of ours or of a client's faults later for want of memory. Clients get read_only_fd().
class Arena {
 public:
  static Result<Arena> create(const ArenaOptions& options, SystemCalls& calls = SystemCalls::real());

  std::byte* data() const { return mapping_.data(); }
  std::size_t bytes() const { return mapping_.bytes(); }
  std::uint32_t page_bytes() const { return page_bytes_; }
  std::uint32_t page_count() const { return page_count_; }
  DomainId domain() const { return domain_; }
  // Of the memory; in a transparent arena what is behind the last whole huge page is small.
  PageKind page_kind() const { return page_kind_; }
  std::byte* page(PageIndex index) const { return data() + std::size_t{raw(index)} * page_bytes_; }

  // A descriptor opened O_RDONLY: mmap PROT_WRITE, mprotect, write, truncate and punch all fail for whoever
  // holds it. Opening it again through /proc/self/fd for writing fails too; where a holder's privilege gets
  // it past the file's mode (0444), the seals still refuse every write, writable mapping, resize and punch.
  Result<UniqueFd> read_only_fd(SystemCalls& calls = SystemCalls::real()) const;

 private:
  UniqueFd memfd_;
  Mapping mapping_;
  std::uint32_t page_bytes_ = 0;
  std::uint32_t page_count_ = 0;
  DomainId domain_ = DomainId::kHost;
  PageKind page_kind_ = PageKind::kSmall;
};

// Memory that a peer writes and we read (an app's ring segment, its TX arena): a memfd of `bytes`, mapped
// here with `protection`, sealed against resizing so that the peer cannot make our reads fault. Until
// seal_peer_writable() the peer can punch holes into it, and who reads there meanwhile waits for the end of
// the whole punch: nothing that must not wait reads it before.
struct SharedSegment {
  UniqueFd fd;  // read-write: this is what the peer gets
  Mapping mapping;
};
Result<SharedSegment> create_peer_writable(const std::string& name, std::size_t bytes, int protection,
                                           SystemCalls& calls = SystemCalls::real());

// Once the peer has mapped it: from here on nobody maps it for writing, writes it by descriptor, punches
// holes or seals more, and no hole is left. The mappings that there are stay as they are. `fd` must be
// open for writing. Waits for the end of a punch that is under way.
Result<void> seal_peer_writable(const std::string& name, int fd, std::size_t bytes,
                                SystemCalls& calls = SystemCalls::real());

// The other way: memory that we write and the peer only reads. `fd` is O_RDONLY, sealed as an arena is.
Result<SharedSegment> create_peer_readable(const std::string& name, std::size_t bytes,
                                           SystemCalls& calls = SystemCalls::real());

}  // namespace sluice
