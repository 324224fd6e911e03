// HugePages: 2 MiB pages of the machine for as long as a test needs them.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace sluice::test {

class HugePages {
 public:
  // At least `count` free ones. An error: the machine has none, or not so many in one piece.
  static Result<HugePages> reserve(std::uint64_t count);
  HugePages(HugePages&& other) noexcept;
  HugePages& operator=(HugePages&&) = delete;
  ~HugePages();  // as many as before
  static std::uint64_t free_now();

 private:
  explicit HugePages(std::uint64_t before) : before_(before) {}
  std::uint64_t before_;
  bool ours_ = true;
};

}  // namespace sluice::test
