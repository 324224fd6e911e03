// StuckWatch: is a thread stuck? Pure: the time and what the thread has done are passed in.
#pragma once

#include <cstdint>

namespace sluice {

inline constexpr std::uint64_t kStuckNs = 2'000'000'000;        // far longer than the longest turn or change
inline constexpr std::uint64_t kStuckAgainNs = 10'000'000'000;  // between two lines about the same

class StuckWatch {
 public:
  enum class Say : std::uint8_t { kNothing, kStuck, kMovesAgain };

  // `steps` grows while the thread works; a thread that rests waits for work, and is well.
  Say look(std::uint64_t now_ns, std::uint64_t steps, bool rests) {
    if (steps != steps_ || rests || since_ns_ == 0) {
      steps_ = steps;
      since_ns_ = now_ns;
      const bool was = stuck_;
      stuck_ = false;
      return was ? Say::kMovesAgain : Say::kNothing;
    }
    if (now_ns - since_ns_ < kStuckNs || (stuck_ && now_ns - said_ns_ < kStuckAgainNs)) {
      return Say::kNothing;
    }
    stuck_ = true;
    said_ns_ = now_ns;
    return Say::kStuck;
  }
  bool stuck() const { return stuck_; }
  std::uint64_t for_ns(std::uint64_t now_ns) const { return now_ns - since_ns_; }

 private:
  std::uint64_t steps_ = 0, since_ns_ = 0, said_ns_ = 0;
  bool stuck_ = false;
};

}  // namespace sluice
