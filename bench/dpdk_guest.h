// DpdkGuest: a virtio_user device in this process, so that one thread can send on a wire and receive as a
// guest in turn. Two busy processes on one CPU would wait for each other for milliseconds, longer than any
// ring lasts.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "bench/measure.h"

namespace sluice::bench {

// A receiver whose back-end listens at `socket`. Starts DPDK's environment in this process the first time;
// this thread stays on its CPU. An error: this build or machine has no DPDK, or the back-end did not answer.
Result<std::unique_ptr<Receiver>> open_dpdk_guest(const std::string& socket, const std::string& mac,
                                                  std::uint32_t queue_size, bool huge_pages);

}  // namespace sluice::bench
