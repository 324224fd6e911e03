// Vring: what the control half of a guest port hands to its data half about one virtqueue, and gets back.
//
// The control half (session.cc) has checked everything here: the addresses are ours and mapped for the whole
// length that the format and `entries` ask for, the features are a subset of what was offered. What lies in
// the memory behind the addresses is the guest's, at any time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/choices.h"

namespace sluice {

// Most virtqueues of one guest: 64 pairs. The queue 2n is the guest's receive queue n, 2n + 1 its transmit
// queue n (virtio 1.2, 5.1.2).
inline constexpr std::uint32_t kMaxVrings = 2 * kMaxQueuePairs;
inline constexpr std::uint32_t kMaxVringEntries = 32768;  // virtio 1.2, 2.7.1 and 2.8.10.1

enum class VringFormat : std::uint8_t { kSplit, kPacked };

// Where a queue stands. Split: `avail` and `used` are free-running indices. Packed: 15 bits of position in
// the ring, bit 15 the wrap counter, as SET_VRING_BASE carries them.
struct VringBase {
  std::uint16_t avail = 0;
  std::uint16_t used = 0;
  // Split: nobody has looked yet. The used index in the guest's memory says what has been given back,
  // whatever the front-end believes after it has lost the back-end before us. The worker that serves the ring
  // reads it: a page that is slow to come costs its port's time, and nobody else's (D8).
  bool in_memory = false;
  bool operator==(const VringBase&) const = default;
};

// Stands for a descriptor that cannot be kicked or called by: it is counted, and nothing else.
inline constexpr int kNotAnEventfd = -2;

struct VringSetup {
  VringFormat format = VringFormat::kSplit;
  std::uint16_t entries = 0;   // split: a power of two
  std::uint64_t features = 0;  // negotiated virtio features, as bits
  std::byte* descriptors = nullptr;
  std::byte* driver_area = nullptr;  // split: available ring; packed: driver event suppression
  std::byte* device_area = nullptr;  // split: used ring; packed: device event suppression
  VringBase base;
  // Stay the control half's. -1: the device, or the driver, polls; kNotAnEventfd: what was given is none.
  int kick_fd = -1;
  int call_fd = -1;
};

}  // namespace sluice
