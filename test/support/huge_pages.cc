#include "test/support/huge_pages.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>

namespace sluice::test {

namespace {

// In the environment of whoever has them.
constexpr const char* kHeld = "SLUICE_TEST_HAS_HUGE_PAGES";

const std::string kFolder = "/sys/kernel/mm/hugepages/hugepages-2048kB/";

std::uint64_t read_count(const std::string& name) {
  std::uint64_t count = 0;
  std::ifstream(kFolder + name) >> count;
  return count;
}

void set_total(std::uint64_t count) {
  std::ofstream(kFolder + "nr_hugepages") << count << std::flush;
}

}  // namespace

Result<HugePages> HugePages::reserve(std::uint64_t count) {
  UniqueFd lock(::open(kFolder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const bool held = ::getenv(kHeld) != nullptr;  // also in the child of a death test
  if (!lock || (!held && ::flock(lock.get(), LOCK_EX) < 0)) {
    return fail_errno(errno, "cannot reserve pages of 2 MiB");
  }
  if (!held) {
    ::setenv(kHeld, "", 1);
  }
  const std::uint64_t before = read_count("nr_hugepages"), free = free_now();
  HugePages pages(std::move(lock), !held, before);
  if (free < count) {
    set_total(before + count - free);
  }
  if (free_now() < count) {
    return fail("this machine has no {} free pages of 2 MiB", count);
  }
  return pages;
}

std::uint64_t HugePages::free_now() {
  return read_count("free_hugepages");
}

HugePages::~HugePages() {
  if (lock_ && read_count("nr_hugepages") != before_) {
    set_total(before_);
  }
  if (lock_ && ours_) {
    ::unsetenv(kHeld);
  }
}

}  // namespace sluice::test
