#include "test/support/huge_pages.h"

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
  const std::uint64_t before = read_count("nr_hugepages"), free = free_now();
  HugePages pages(before);
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

HugePages::HugePages(HugePages&& other) noexcept
    : before_(other.before_), ours_(std::exchange(other.ours_, false)) {}

HugePages::~HugePages() {
  if (ours_ && read_count("nr_hugepages") != before_) {
    set_total(before_);
  }
}

}  // namespace sluice::test
