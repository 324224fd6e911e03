// Tally: what one app has seen, in memory that it shares with the demo. It stays readable when the app is
// killed.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace sluice::demo {

struct Tally {
  static constexpr std::uint64_t kAny = ~std::uint64_t{0};

  // Written by the demo.
  std::atomic<std::uint64_t> first_sequence{
      kAny};  // what the first packet must carry; kAny: joins in the middle
  std::atomic<bool> stop{false};

  // Written by the app, once per burst.
  std::atomic<std::uint64_t> received{0};
  std::atomic<std::uint64_t> bytes{0};
  std::atomic<std::uint64_t> missing{0};  // sequence numbers that were left out
  std::atomic<std::uint64_t> not_rising{
      0};  // packets whose number was not above the one before: twice, or disorder
  std::atomic<std::uint64_t> attaches{0};  // sessions so far
  std::atomic<bool> attached{false};
};

class SharedTally {
 public:
  static Result<SharedTally> create();
  static Result<SharedTally> open(const std::string& path);

  std::string path() const;  // for open() in another process, while this one lives
  Tally& operator*() const { return *reinterpret_cast<Tally*>(mapping_.data()); }
  Tally* operator->() const { return &**this; }

 private:
  UniqueFd fd_;
  Mapping mapping_;
};

}  // namespace sluice::demo
