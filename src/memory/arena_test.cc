#include "memory/arena.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "base/map_shared.h"
#include "memory/memory_test_tools.h"
#include "memory/reader_attack.h"
#include "test/support/huge_pages.h"

namespace sluice {
namespace {

using test::FailingCalls;
using test::Holdings;
using test::HugePages;
using test::Peer;

const ArenaOptions kSmall{
    .name = "test", .page_bytes = 2048, .page_count = 100, .huge = ArenaOptions::Huge::kNever};

#define SLUICE_NEED_HUGE_PAGES(count)         \
  auto reserved = HugePages::reserve(count);  \
  if (!reserved) {                            \
    GTEST_SKIP() << reserved.error().message; \
  }

// As a machine whose administrator has reserved no huge pages.
class NoReservedPages : public SystemCalls {
 public:
  int memfd_create(const char* name, unsigned flags) override {
    if ((flags & MFD_HUGETLB) != 0) {
      errno = ENOMEM;
      return -1;
    }
    return SystemCalls::memfd_create(name, flags);
  }
};

// The bytes of this process's mappings of `name` that the kernel has mapped as transparent huge pages.
std::size_t mapped_huge(const std::string& name) {
  std::ifstream smaps("/proc/self/smaps");
  std::size_t total = 0;
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    if (line.find('-') < 20 && line.find(' ') > line.find('-')) {
      inside = line.find("memfd:sluice-" + name) != std::string::npos;
    } else if (inside && line.starts_with("ShmemPmdMapped:")) {
      total += std::stoul(line.substr(15)) * 1024;
    }
  }
  return total;
}

struct MappingsOf {
  std::size_t all = 0, not_dumped = 0;
};

// The mappings of `name` in this process, and how many of them are left out of core files.
MappingsOf mappings_of(const std::string& name) {
  std::ifstream smaps("/proc/self/smaps");
  MappingsOf found;
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    if (line.find('-') < 20 && line.find(' ') > line.find('-')) {
      inside = line.find("memfd:sluice-" + name) != std::string::npos;
      found.all += inside ? 1 : 0;
    } else if (inside && line.starts_with("VmFlags:")) {
      found.not_dumped += line.find(" dd") != std::string::npos ? 1 : 0;
    }
  }
  return found;
}

bool kernel_has_transparent_huge_pages() {
  std::string shmem;
  std::getline(std::ifstream("/sys/kernel/mm/transparent_hugepage/shmem_enabled"), shmem);
  return !shmem.empty() && shmem.find("[deny]") == std::string::npos;
}
#define SLUICE_NEED_TRANSPARENT_HUGE_PAGES()                                \
  if (!kernel_has_transparent_huge_pages()) {                               \
    GTEST_SKIP() << "this kernel has no transparent huge pages for memfds"; \
  }

bool all_bytes_are(const std::byte* data, std::size_t bytes, std::byte value) {
  return std::all_of(data, data + bytes, [value](std::byte byte) { return byte == value; });
}

std::size_t allocated_bytes(int fd) {
  struct stat status{};
  EXPECT_EQ(::fstat(fd, &status), 0);
  return static_cast<std::size_t>(status.st_blocks) * 512;
}

TEST(Arena, NoMemoryThatPacketsLieInIsPartOfACoreFile) {
  auto arena = Arena::create({.name = "dump-arena", .page_bytes = 2048, .page_count = 4096});
  ASSERT_TRUE(arena) << arena.error().message;
  auto writable = create_peer_writable("dump-tx", 64 << 10, PROT_READ);
  auto readable = create_peer_readable("dump-rx", 64 << 10);
  ASSERT_TRUE(writable && readable);
  for (const char* name : {"dump-arena", "dump-tx", "dump-rx"}) {
    const MappingsOf found = mappings_of(name);
    EXPECT_GE(found.all, 1u) << name;
    EXPECT_EQ(found.not_dumped, found.all) << name;
  }
}

TEST(Arena, ComesZeroedMappedAndOfWholePages) {
  auto arena = Arena::create({.name = "test",
                              .domain = DomainId{5},
                              .page_bytes = 2048,
                              .page_count = 3,
                              .huge = ArenaOptions::Huge::kNever});
  ASSERT_TRUE(arena) << arena.error().message;
  EXPECT_EQ(arena->page_count(), 4u);
  EXPECT_EQ(arena->bytes(), 8192u);
  EXPECT_EQ(arena->domain(), DomainId{5});
  EXPECT_EQ(arena->page_kind(), PageKind::kSmall);
  EXPECT_EQ(arena->page(PageIndex{3}), arena->data() + 3 * 2048);
  EXPECT_TRUE(all_bytes_are(arena->data(), arena->bytes(), std::byte{0}));
}

TEST(Arena, AllocatesEveryPageWhenItIsMade) {
  auto arena = Arena::create(
      {.name = "test", .page_bytes = 4096, .page_count = 1000, .huge = ArenaOptions::Huge::kNever});
  ASSERT_TRUE(arena);
  auto fd = arena->read_only_fd();
  ASSERT_TRUE(fd);
  EXPECT_EQ(allocated_bytes(fd->get()), arena->bytes());
}

TEST(Arena, RefusesOptionsThatCannotBeAndSaysWhatCan) {
  auto message = [](ArenaOptions options) {
    auto arena = Arena::create(options);
    return arena ? std::string("made") : arena.error().message;
  };
  EXPECT_EQ(message({.name = "a", .page_bytes = 1024, .page_count = 1}),
            "arena a: page_bytes is 1024; it must be 2048 or 4096, an AF_XDP chunk");
  EXPECT_EQ(message({.name = "a", .page_count = 0}), "arena a: page_count is 0; it must be 1 .. 2147483648");
  EXPECT_EQ(message({.name = "a", .page_count = kMaxPages + 1}),
            "arena a: page_count is 2147483649; it must be 1 .. 2147483648");
  EXPECT_EQ(message({.name = std::string(201, 'a'), .page_count = 1}),
            "the name of an arena has 201 bytes; at most 200 are allowed");
}

TEST(Arena, SaysHowMuchMemoryIsMissing) {
  // 8 TiB: more than any machine that runs this test commits.
  auto arena = Arena::create(
      {.name = "big", .page_bytes = 4096, .page_count = kMaxPages, .huge = ArenaOptions::Huge::kRequired});
  ASSERT_FALSE(arena);
  EXPECT_NE(arena.error().message.find("arena big needs 4194304 free huge pages of 2 MiB"), std::string::npos)
      << arena.error().message;
  EXPECT_NE(arena.error().message.find("sysctl vm.nr_hugepages"), std::string::npos) << arena.error().message;
  arena = Arena::create({.name = "big", .page_bytes = 4096, .page_count = kMaxPages});
  ASSERT_FALSE(arena);
  EXPECT_NE(arena.error().message.find("arena big needs 8388608 MiB of memory, "), std::string::npos)
      << arena.error().message;
}

TEST(Arena, ReadersSeeWhatTheOwnerWrites) {
  auto arena = Arena::create(kSmall);
  ASSERT_TRUE(arena);
  auto fd = arena->read_only_fd();
  ASSERT_TRUE(fd);
  auto reader = Mapping::map(fd->get(), arena->bytes(), PROT_READ);
  ASSERT_TRUE(reader);
  arena->page(PageIndex{7})[3] = std::byte{42};
  EXPECT_EQ(reader->data()[7 * 2048 + 3], std::byte{42});
  EXPECT_NE(::fcntl(fd->get(), F_GETFD) & FD_CLOEXEC, 0);
}

std::string names(const std::vector<std::string>& attacks) {
  std::string text;
  for (const std::string& attack : attacks) {
    text += attack + "; ";
  }
  return text.empty() ? "all refused" : text;
}

std::string attack(int fd, std::size_t bytes) {
  return names(test::attack_as_reader(fd, bytes));
}

// D4, by everything that a holder of the descriptor can try: here, in another process, and there without
// privilege.
void expect_readers_cannot_write(const ArenaOptions& options, PageKind kind,
                                 SystemCalls& calls = SystemCalls::real()) {
  Peer same_user(Peer::As::kSameUser, attack);
  Peer nobody(Peer::As::kNobody, attack);
  auto arena = Arena::create(options, calls);
  ASSERT_TRUE(arena) << arena.error().message;
  EXPECT_EQ(arena->page_kind(), kind);
  std::memset(arena->data(), 0x5a, arena->bytes());
  auto fd = arena->read_only_fd();
  ASSERT_TRUE(fd) << fd.error().message;
  if (::geteuid() == 0) {
    EXPECT_EQ(nobody.give(fd->get(), arena->bytes()), "all refused");
  }
  EXPECT_EQ(same_user.give(fd->get(), arena->bytes()), "all refused");
  EXPECT_EQ(attack(fd->get(), arena->bytes()), "all refused");
  EXPECT_TRUE(all_bytes_are(arena->data(), arena->bytes(), std::byte{0x5a}));
  struct stat status{};
  ASSERT_EQ(::fstat(fd->get(), &status), 0);
  EXPECT_EQ(static_cast<std::size_t>(status.st_size), arena->bytes());
}

TEST(Arena, Malicious_ReadersCannotWriteResizeOrPunch_D4) {
  expect_readers_cannot_write(kSmall, PageKind::kSmall);
}

TEST(Arena, Malicious_ReadersOfHugePagesCannotWriteResizeOrPunch_D4) {
  SLUICE_NEED_HUGE_PAGES(8);
  ArenaOptions options = kSmall;
  options.huge = ArenaOptions::Huge::kRequired;
  expect_readers_cannot_write(options, PageKind::kReservedHuge);
}

// The attacks themselves must be able to succeed, or refusing them proves nothing.
TEST(Arena, TheAttacksWorkOnMemoryThatIsNotSealed) {
  UniqueFd plain(::memfd_create("sluice-plain", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(plain.get(), 65536), 0);
  auto got_through = test::attack_as_reader(plain.get(), 65536);
  // (Not "add a seal": F_SEAL_WRITE is refused while the attack's own writable mapping exists.)
  for (const char* name : {"mmap PROT_WRITE", "mprotect PROT_WRITE", "pwrite", "fallocate punch hole",
                           "write through /proc/self/mem", "process_vm_writev", "madvise MADV_REMOVE"}) {
    EXPECT_NE(std::find(got_through.begin(), got_through.end(), name), got_through.end()) << name;
  }
}

TEST(Arena, TakesHugePagesWhenThereAreAnyAndCommitsThem) {
  SLUICE_NEED_HUGE_PAGES(8);
  Holdings before = Holdings::now();
  {
    auto arena = Arena::create({.name = "huge", .page_bytes = 2048, .page_count = 1025});
    ASSERT_TRUE(arena) << arena.error().message;
    EXPECT_EQ(arena->page_kind(), PageKind::kReservedHuge);
    EXPECT_EQ(arena->bytes(), 2 * kHugePageBytes);
    EXPECT_EQ(arena->page_count(), 2048u);
    // Allocated, not only reserved: nothing is left that could be missing when it is touched.
    auto fd = arena->read_only_fd();
    ASSERT_TRUE(fd);
    EXPECT_EQ(allocated_bytes(fd->get()), arena->bytes());
    EXPECT_TRUE(all_bytes_are(arena->data(), arena->bytes(), std::byte{0}));
  }
  EXPECT_EQ(Holdings::now(), before);
}

TEST(Arena, TakesTransparentHugePagesWhenNoneAreReserved) {
  SLUICE_NEED_TRANSPARENT_HUGE_PAGES();
  NoReservedPages calls;
  Holdings before = Holdings::now();
  {
    auto arena = Arena::create({.name = "huge", .page_bytes = 2048, .page_count = 2048 + 2}, calls);
    ASSERT_TRUE(arena) << arena.error().message;
    ASSERT_EQ(arena->page_kind(), PageKind::kTransparentHuge);
    EXPECT_EQ(arena->bytes(), 2 * kHugePageBytes + 4096) << "not rounded up to whole huge pages";
    EXPECT_EQ(mapped_huge("huge"), 2 * kHugePageBytes);
    auto fd = arena->read_only_fd();
    ASSERT_TRUE(fd);
    EXPECT_EQ(allocated_bytes(fd->get()), arena->bytes());
    EXPECT_TRUE(all_bytes_are(arena->data(), arena->bytes(), std::byte{0}));
    // A reader's mapping gets them too: it begins where one can.
    auto reader = Mapping::map(fd->get(), arena->bytes(), PROT_READ);
    ASSERT_TRUE(reader);
    EXPECT_TRUE(all_bytes_are(reader->data(), reader->bytes(), std::byte{0}));
    EXPECT_EQ(mapped_huge("huge"), 4 * kHugePageBytes);
  }
  EXPECT_EQ(Holdings::now(), before);
}

TEST(Arena, Malicious_ReadersOfTransparentHugePagesCannotWriteResizeOrPunch_D4) {
  SLUICE_NEED_TRANSPARENT_HUGE_PAGES();
  NoReservedPages calls;
  ArenaOptions options = kSmall;
  options.page_count = 3 * 1024;
  options.huge = ArenaOptions::Huge::kIfAny;
  expect_readers_cannot_write(options, PageKind::kTransparentHuge, calls);
}

TEST(Arena, FallsBackToSmallPagesWhenThereAreTooFewHugeOnes) {
  SLUICE_NEED_HUGE_PAGES(2);
  // More than there are, also when another program gives some back meanwhile.
  auto pages = static_cast<std::uint32_t>((HugePages::free_now() + 64) * 1024);
  Holdings before = Holdings::now();
  {
    auto arena = Arena::create({.name = "huge", .page_bytes = 2048, .page_count = pages});
    ASSERT_TRUE(arena) << arena.error().message;
    EXPECT_NE(arena->page_kind(), PageKind::kReservedHuge);
    EXPECT_EQ(Holdings::now().descriptors.size(), before.descriptors.size() + 1);
  }
  EXPECT_EQ(Holdings::now(), before);
}

// Every call that creation makes fails once; whatever came of it, nothing is left behind.
template <typename Create>
int fail_every_call(int error, Create create) {
  int failures = 0;
  for (int at = 1;; ++at) {
    Holdings before = Holdings::now();
    FailingCalls calls(at, error);
    bool ok = create(calls);
    EXPECT_EQ(Holdings::now(), before) << "call " << at;
    if (!calls.failed()) {
      EXPECT_TRUE(ok) << "no call failed";
      return failures;
    }
    failures += ok ? 0 : 1;
  }
}

bool make_arena(SystemCalls& calls, ArenaOptions::Huge huge, std::uint32_t pages = kSmall.page_count) {
  ArenaOptions options = kSmall;
  options.huge = huge;
  options.page_count = pages;
  auto arena = Arena::create(options, calls);
  EXPECT_TRUE(arena || !arena.error().message.empty());
  if (arena) {
    auto fd = arena->read_only_fd(calls);
    return fd.has_value();
  }
  return false;
}

TEST(Arena, Crash_NothingLeaksWhenAnyCallOfItsCreationFails) {
  // memfd_create ftruncate fallocate mmap fchmod seals, and the reader's open: each is needed.
  EXPECT_EQ(fail_every_call(ENOMEM,
                            [](SystemCalls& calls) { return make_arena(calls, ArenaOptions::Huge::kNever); }),
            7);
  // EINVAL from memfd_create is an older kernel: it is asked again without MFD_NOEXEC_SEAL.
  EXPECT_EQ(fail_every_call(EINVAL,
                            [](SystemCalls& calls) { return make_arena(calls, ArenaOptions::Huge::kNever); }),
            6);
  fail_every_call(ENOMEM, [](SystemCalls& calls) { return make_arena(calls, ArenaOptions::Huge::kIfAny); });
  // Large enough for transparent huge pages.
  fail_every_call(ENOMEM,
                  [](SystemCalls& calls) { return make_arena(calls, ArenaOptions::Huge::kIfAny, 2048); });
}

TEST(Arena, Crash_WithoutTransparentHugePagesItIsMadeOfSmallOnes) {
  class NoCollapse : public NoReservedPages {
    int collapse(int, std::size_t) override {
      errno = EINVAL;
      return -1;
    }
  } calls;
  auto arena = Arena::create({.name = "plain", .page_count = 2048}, calls);
  ASSERT_TRUE(arena) << arena.error().message;
  EXPECT_EQ(arena->page_kind(), PageKind::kSmall);
  EXPECT_EQ(mapped_huge("plain"), 0u);
  auto fd = arena->read_only_fd();
  ASSERT_TRUE(fd);
  EXPECT_EQ(allocated_bytes(fd->get()), arena->bytes());
}

TEST(Arena, Crash_NothingLeaksWhenAnyCallFailsWithHugePagesAtHand) {
  SLUICE_NEED_HUGE_PAGES(8);
  // The first four, up to mmap, are answered by falling back; fchmod, seals and open are not.
  EXPECT_EQ(fail_every_call(ENOMEM,
                            [](SystemCalls& calls) { return make_arena(calls, ArenaOptions::Huge::kIfAny); }),
            3);
  EXPECT_EQ(fail_every_call(
                ENOMEM, [](SystemCalls& calls) { return make_arena(calls, ArenaOptions::Huge::kRequired); }),
            7);
}

TEST(SharedSegment, Crash_NothingLeaksWhenAnyCallOfItsCreationFails) {
  EXPECT_EQ(fail_every_call(ENOMEM,
                            [](SystemCalls& calls) {
                              return create_peer_writable("w", 8192, PROT_READ, calls).has_value();
                            }),
            5);
  EXPECT_EQ(
      fail_every_call(ENOMEM,
                      [](SystemCalls& calls) { return create_peer_readable("r", 8192, calls).has_value(); }),
      7);
}

std::string shrink_grow_punch_and_write(int fd, std::size_t bytes) {
  std::string said;
  said += ::ftruncate(fd, 0) == 0 ? "shrank " : "";
  said += ::ftruncate(fd, static_cast<off_t>(bytes * 2)) == 0 ? "grew " : "";
  said +=
      ::fallocate(fd, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(bytes), 4096) == 0 ? "allocated behind " : "";
  said += ::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0 ? "sealed " : "";
  said += ::pwrite(fd, "x", 1, 100) == 1 ? "wrote " : "";
  int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  said += ::fallocate(fd, punch, 4096, static_cast<off_t>(bytes - 4096)) == 0 ? "punched" : "";
  return said;
}

TEST(SharedSegment, Malicious_AWritingPeerCannotMakeOurReadsFault_D3) {
  Peer peer(Peer::As::kSameUser, shrink_grow_punch_and_write);
  auto segment = create_peer_writable("segment", 3 * 4096, PROT_READ);
  ASSERT_TRUE(segment) << segment.error().message;
  ASSERT_EQ(segment->mapping.bytes(), 3 * 4096u);
  EXPECT_EQ(peer.give(segment->fd.get(), segment->mapping.bytes()), "wrote punched");
  EXPECT_EQ(segment->mapping.data()[100], std::byte{'x'});
  EXPECT_TRUE(all_bytes_are(segment->mapping.data() + 4096, 2 * 4096, std::byte{0}));
}

// D6: who punches a hole makes its readers wait for the end of the whole punch, so it must not be possible
// any more when a worker reads there. All of it by the peer's own descriptor and by what it can open again.
std::string punch_write_and_map(int fd, std::size_t bytes) {
  std::string said;
  auto attack_by = [&](int by, const std::string& how) {
    auto note = [&](bool succeeded, const char* what) { said += succeeded ? what + how : ""; };
    const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    note(::fallocate(by, punch, 0, static_cast<off_t>(bytes)) == 0, "punched");
    note(::fallocate(by, FALLOC_FL_ZERO_RANGE, 0, static_cast<off_t>(bytes)) == 0, "zeroed");
    note(::fallocate(by, FALLOC_FL_COLLAPSE_RANGE, 0, 4096) == 0, "collapsed");
    note(::ftruncate(by, 0) == 0, "shrank");
    note(::ftruncate(by, static_cast<off_t>(bytes * 2)) == 0, "grew");
    note(::pwrite(by, "x", 1, 100) == 1, "wrote");
    note(::fcntl(by, F_ADD_SEALS, F_SEAL_WRITE) == 0, "sealed");
    void* writable = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, by, 0);
    note(writable != MAP_FAILED, "mapped");
    void* readable = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, by, 0);
    note(readable != MAP_FAILED && ::mprotect(readable, bytes, PROT_READ | PROT_WRITE) == 0, "made writable");
    note(readable != MAP_FAILED && ::madvise(readable, bytes, MADV_REMOVE) == 0, "removed");
  };
  attack_by(fd, " ");
  const int again = ::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDWR);
  attack_by(again, " by opening it again ");
  return said.empty() ? "all refused" : said;
}

TEST(SharedSegment, Malicious_OnceSealedItIsTheMappingsThatThereAreAndNothingElse) {
  Peer peer(Peer::As::kSameUser, punch_write_and_map);
  constexpr std::size_t kBytes = 16 * 4096;
  auto segment = create_peer_writable("segment", kBytes, PROT_READ);
  ASSERT_TRUE(segment) << segment.error().message;
  void* mapped = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, segment->fd.get(), 0);
  ASSERT_NE(mapped, MAP_FAILED);
  auto* theirs = static_cast<std::byte*>(mapped);
  ASSERT_EQ(::madvise(theirs, kBytes, MADV_REMOVE), 0);
  const auto sealed = seal_peer_writable("segment", segment->fd.get(), segment->mapping.bytes());
  ASSERT_TRUE(sealed) << sealed.error().message;
  struct stat status{};
  ASSERT_EQ(::fstat(segment->fd.get(), &status), 0);
  EXPECT_EQ(static_cast<std::size_t>(status.st_blocks) * 512, kBytes) << "what was punched before is back";
  std::memset(theirs, 0x5a, kBytes);
  EXPECT_EQ(peer.give(segment->fd.get(), kBytes), "all refused");
  EXPECT_EQ(punch_write_and_map(segment->fd.get(), kBytes), "all refused");
  EXPECT_NE(::madvise(theirs, kBytes, MADV_REMOVE), 0) << "a punch by the mapping that may write";
  EXPECT_TRUE(all_bytes_are(segment->mapping.data(), kBytes, std::byte{0x5a}));
  theirs[5] = std::byte{7};
  EXPECT_EQ(segment->mapping.data()[5], std::byte{7}) << "what was mapped before works as ever";
  ::munmap(mapped, kBytes);
}

// The attacks themselves must be able to succeed, or refusing them proves nothing.
TEST(SharedSegment, BeforeItIsSealedThePeerCanPunchAndMapIt) {
  Peer peer(Peer::As::kSameUser, punch_write_and_map);
  auto segment = create_peer_writable("segment", 16 * 4096, PROT_READ);
  ASSERT_TRUE(segment) << segment.error().message;
  const std::string said = peer.give(segment->fd.get(), 16 * 4096);
  for (const char* done : {"punched ", "wrote ", "mapped ", "removed "}) {
    EXPECT_NE(said.find(done), std::string::npos) << said;
  }
}

TEST(SharedSegment, Malicious_APeerThatSealsItByItselfIsNoticed) {
  auto segment = create_peer_writable("segment", 4096, PROT_READ);
  ASSERT_TRUE(segment) << segment.error().message;
  ASSERT_EQ(::fcntl(segment->fd.get(), F_ADD_SEALS, F_SEAL_SEAL), 0);
  EXPECT_FALSE(seal_peer_writable("segment", segment->fd.get(), segment->mapping.bytes()));
}

TEST(SharedSegment, Malicious_AReadingPeerCannotWriteOurs_D4) {
  Peer same_user(Peer::As::kSameUser, attack);
  Peer nobody(Peer::As::kNobody, attack);
  auto segment = create_peer_readable("segment", 2 * 4096);
  ASSERT_TRUE(segment) << segment.error().message;
  std::memset(segment->mapping.data(), 0x5a, segment->mapping.bytes());
  if (::geteuid() == 0) {
    EXPECT_EQ(nobody.give(segment->fd.get(), segment->mapping.bytes()), "all refused");
  }
  EXPECT_EQ(same_user.give(segment->fd.get(), segment->mapping.bytes()), "all refused");
  EXPECT_TRUE(all_bytes_are(segment->mapping.data(), segment->mapping.bytes(), std::byte{0x5a}));
}

}  // namespace
}  // namespace sluice
