#include "test/support/huge_pages.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <fstream>
#include <string>
#include <utility>

namespace sluice::test {

namespace {

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
  if (!lock || ::flock(lock.get(), LOCK_EX) < 0) {
    return fail_errno(errno, "cannot reserve pages of 2 MiB");
  }
  const std::uint64_t before = read_count("nr_hugepages"), free = free_now();
  HugePages pages(std::move(lock), before);
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
}

}  // namespace sluice::test
