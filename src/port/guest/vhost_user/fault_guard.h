// FaultGuard: what happens when memory that a guest lent us is gone.
//
// Whoever made the file behind a region can shrink it, or run its huge pages out, at any time; our next
// access is then SIGBUS, in a worker or on the control thread. The guard's handler finds the mapping by the
// address, puts other memory in the place of the page, tells the mapping's owner and returns: the access goes
// on in memory of nobody, and the owner ends that guest's session. A SIGBUS anywhere else is a bug of ours
// and ends the process as it always did.
//
// The handler must succeed where memory is short, for the peer chooses when it runs (vm.overcommit_memory =
// 2). So the page alone is replaced, with zeroes; where even that much cannot be had, by a page that was
// allocated when the watch began, one for each mapping: what is written to one lost page is then read in
// another of the same guest. Workers leave a guest whose memory is lost alone from the next burst on, which
// bounds how often this happens.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/fd.h"
#include "base/result.h"

namespace sluice {

// Most mappings of all guests together that can be watched; one more is refused as if there were no memory.
inline constexpr std::uint32_t kMaxWatchedMappings = 8192;
// Pages of one mapping that are replaced one at a time; then all that follows is, at once, if that can be
// had: each page costs an entry of the kernel's list of mappings (vm.max_map_count).
inline constexpr std::uint32_t kPagesReplacedSingly = 64;

// How an owner hears of it: readable when one of its mappings was lost. Lives as long as any watch of its.
class LossSignal {
 public:
  static Result<LossSignal> create();
  int fd() const { return event_.get(); }
  // Whether one was lost since the last call.
  bool take() const;
  // Set by the handler; workers look before each burst.
  const std::atomic<bool>& lost() const { return *lost_; }
  // What was lost before is forgotten. Only while there are no watches.
  void begin() const;

 private:
  friend class FaultWatch;
  UniqueFd event_;
  std::unique_ptr<std::atomic<bool>> lost_ = std::make_unique<std::atomic<bool>>(false);
};

// A mapping under watch, from its making until just before it is unmapped.
class FaultWatch {
 public:
  FaultWatch() = default;
  FaultWatch(FaultWatch&& other) noexcept : slot_(std::exchange(other.slot_, kNoSlot)) {}
  FaultWatch& operator=(FaultWatch&& other) noexcept {
    reset();
    slot_ = std::exchange(other.slot_, kNoSlot);
    return *this;
  }
  ~FaultWatch() { reset(); }

  // Installs the handler when it is the first. `page_bytes`: of the file (huge pages); `mapping` begins and
  // ends on such a page. Any thread that makes mappings; one at a time.
  static Result<FaultWatch> watch(std::span<std::byte> mapping, std::size_t page_bytes,
                                  const LossSignal& signal);
  bool lost() const;
  void reset();

 private:
  static constexpr std::uint32_t kNoSlot = 0xffffffff;
  std::uint32_t slot_ = kNoSlot;
};

}  // namespace sluice
