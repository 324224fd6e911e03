// How long packets stay with a worker: a histogram, a value per turn that carried packets. One writer, the
// worker; any thread reads.
#pragma once
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

namespace sluice {

class Residence {
 public:
  static constexpr unsigned kStepsPerOctave = 4, kFirstOctave = 6, kOctaves = 18;  // 64 ns .. 16 ms
  static constexpr std::uint32_t kFull = 65536;  // samples, then all are halved: the recent past counts more

  void note(std::uint64_t ns) {
    std::atomic<std::uint32_t>& bucket = buckets_[index(ns)];
    bucket.store(bucket.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    if (++samples_ == kFull) {
      halve();
    }
  }
  // Upper end of the bucket that holds the quantile; 0: nothing was noted.
  std::uint64_t quantile_ns(double quantile) const {
    std::uint64_t total = 0;
    for (const auto& bucket : buckets_) {
      total += bucket.load(std::memory_order_relaxed);
    }
    std::uint64_t wanted = static_cast<std::uint64_t>(quantile * static_cast<double>(total)), sum = 0;
    for (unsigned i = 0; i < buckets_.size() && total != 0; ++i) {
      sum += buckets_[i].load(std::memory_order_relaxed);
      if (sum > wanted) {
        return end_of(i);
      }
    }
    return 0;
  }
  static unsigned index(std::uint64_t ns) {
    if (ns < (1u << kFirstOctave)) {
      return 0;
    }
    const unsigned octave = static_cast<unsigned>(std::bit_width(ns)) - 1;
    const auto step = static_cast<unsigned>(ns >> (octave - 2)) & (kStepsPerOctave - 1);
    const unsigned at = (octave - kFirstOctave) * kStepsPerOctave + step;
    return at < kStepsPerOctave * kOctaves ? at : kStepsPerOctave * kOctaves - 1;
  }
  static std::uint64_t end_of(unsigned at) {
    const unsigned octave = kFirstOctave + at / kStepsPerOctave;
    return (std::uint64_t{1} << octave) + (std::uint64_t{at % kStepsPerOctave + 1} << (octave - 2));
  }

 private:
  void halve() {
    samples_ = 0;
    for (auto& bucket : buckets_) {
      const std::uint32_t half = bucket.load(std::memory_order_relaxed) / 2;
      bucket.store(half, std::memory_order_relaxed);
      samples_ += half;
    }
  }
  std::array<std::atomic<std::uint32_t>, kStepsPerOctave * kOctaves> buckets_{};
  std::uint32_t samples_ = 0;
};

}  // namespace sluice
