// A guest in this process: a virtio_user device of DPDK's, so that one thread can send on a wire and receive
// as a guest in turn. Two busy processes on one CPU would wait for each other for milliseconds, longer than
// any ring lasts.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "bench/measure.h"
#include "test/support/frame.h"

namespace sluice::bench {

struct GuestOptions {
  std::string socket;  // where the back-end listens
  std::string mac;
  std::uint32_t queue_size = 256;
  bool packed = false;
  bool in_order = false;
};

class Guest : public Receiver {
 public:
  // `count` times the same frame, as far as the ring has room; returns how many.
  virtual std::uint64_t send(const test::Frame& frame, std::uint64_t count) = 0;
};

// Starts DPDK's environment in this process the first time; this thread stays on its CPU. An error: this
// build or machine has no DPDK, or the back-end did not answer.
Result<std::unique_ptr<Guest>> open_dpdk_guest(const GuestOptions& options, bool huge_pages);

}  // namespace sluice::bench
