// HugePages: 2 MiB pages of the machine for as long as a test needs them. One process at a time has them, and
// the others wait: each leaves as many as it found, which must not be another's.
#pragma once

#include <cstdint>
#include <utility>

#include "base/fd.h"
#include "base/result.h"

namespace sluice::test {

class HugePages {
 public:
  // At least `count` free ones. An error: the machine has none, or not so many in one piece.
  static Result<HugePages> reserve(std::uint64_t count);
  HugePages(HugePages&&) noexcept = default;
  HugePages& operator=(HugePages&&) = delete;
  ~HugePages();  // as many as before
  static std::uint64_t free_now();

 private:
  HugePages(UniqueFd lock, bool ours, std::uint64_t before)
      : lock_(std::move(lock)), ours_(ours), before_(before) {}
  UniqueFd lock_;  // none: moved from
  bool ours_;      // the lock, and no other object's of this process or of its parent
  std::uint64_t before_;
};

}  // namespace sluice::test
