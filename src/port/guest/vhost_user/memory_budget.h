// MemoryBudget: how many bytes of guests' memory may be mapped here: of one guest, or of all together.
//
// What counts is what is mapped, from the call that maps it until the closer has unmapped it
// (base/closer.h): address space is what a front-end can use up with files that have nothing in them.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

namespace sluice {

class MemoryBudget {
 public:
  static constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

  explicit MemoryBudget(std::uint64_t limit = kNoLimit) : limit_(limit) {}

  std::uint64_t limit() const { return limit_; }
  // Any thread.
  std::uint64_t used() const { return used_.load(std::memory_order_relaxed); }
  void give_back(std::uint64_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }
  // Control thread alone, so nobody takes between the look and the step. False: that is more than is left.
  bool take(std::uint64_t bytes) {
    const std::uint64_t used = used_.load(std::memory_order_relaxed);
    if (used > limit_ || bytes > limit_ - used) {
      return false;
    }
    used_.fetch_add(bytes, std::memory_order_relaxed);
    return true;
  }

 private:
  const std::uint64_t limit_;
  std::atomic<std::uint64_t> used_{0};
};

// Bytes of two budgets, until it goes; on any thread.
class MemoryShare {
 public:
  using Budget = std::shared_ptr<MemoryBudget>;

  MemoryShare(MemoryShare&& other) noexcept
      : own_(std::move(other.own_)), all_(std::move(other.all_)), bytes_(std::exchange(other.bytes_, 0)) {}
  MemoryShare& operator=(MemoryShare&&) = delete;
  ~MemoryShare() {
    if (bytes_ != 0) {
      own_->give_back(bytes_);
      all_->give_back(bytes_);
    }
  }

  static std::optional<MemoryShare> take(const Budget& own, const Budget& all, std::uint64_t bytes) {
    if (!own->take(bytes)) {
      return std::nullopt;
    }
    if (!all->take(bytes)) {
      own->give_back(bytes);
      return std::nullopt;
    }
    return MemoryShare(own, all, bytes);
  }

 private:
  MemoryShare(Budget own, Budget all, std::uint64_t bytes)
      : own_(std::move(own)), all_(std::move(all)), bytes_(bytes) {}

  Budget own_, all_;
  std::uint64_t bytes_;
};

}  // namespace sluice
