// Our side of a ring of abi/ring.h, with the verbs of AF_XDP: reserve / submit, peek / release.
//
// Each class lives in private memory and keeps its own indices there (D3); in shared memory it only publishes them.
// The peer's index is clamped to what is possible and counted when it is not. One thread per side.
#pragma once

#include <atomic>
#include <cstdint>

#include "abi/ring.h"
#include "base/untrusted.h"

namespace sluice {

template <typename Entry>
class RingProducer {
 public:
  RingProducer() = default;
  // `size` is a power of two, from our own memory. All pointers stay valid as long as the ring is used.
  RingProducer(sluice_ring_producer* own, Entry* entries, const sluice_ring_consumer* peer, std::uint32_t size)
      : own_(own), entries_(entries), peer_(peer), mask_(size - 1) {}

  // How many entries may be written now, at most `wanted`. Reads the peer's index only when its last known
  // value does not suffice.
  std::uint32_t reserve(std::uint32_t wanted);
  // The i-th reserved entry, i < what reserve() returned.
  Entry& entry(std::uint32_t i);
  // Publishes the first `count` reserved entries.   [label: publish]
  void submit(std::uint32_t count);
  // After submit: does the peer want a kick?        [label: sleep]
  bool peer_needs_wakeup() const;

  std::uint32_t produced() const;    // free-running index
  std::uint32_t in_ring();           // produced and not consumed yet, 0 .. size
  std::uint64_t faults() const;      // how often the peer's index was impossible
};

template <typename Entry>
class RingConsumer {
 public:
  RingConsumer() = default;
  RingConsumer(sluice_ring_consumer* own, const Entry* entries, const sluice_ring_producer* peer, std::uint32_t size);

  // How many entries can be read now, at most `wanted`.   [label: publish]
  std::uint32_t peek(std::uint32_t wanted);
  // A private copy of the i-th peeked entry, made once (D3).
  Entry read(std::uint32_t i) const;
  // Gives the first `count` peeked entries back to the producer.   [label: give back]
  void release(std::uint32_t count);

  // Before sleeping: ask for a kick, then look again; true when there is work after all (and no kick is asked for).
  bool prepare_sleep();   // [label: sleep]
  void cancel_sleep();

  std::uint32_t consumed() const;
  std::uint64_t faults() const;
};

}  // namespace sluice
