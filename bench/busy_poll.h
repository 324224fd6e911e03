// Preferred busy polling (Documentation/networking/napi.rst): a program that asks its socket for packets runs
// the NIC's receive work itself, on its own CPU, and the kernel leaves that to it as long as it keeps asking.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace sluice::bench {

// SO_PREFER_BUSY_POLL, SO_BUSY_POLL, SO_BUSY_POLL_BUDGET. A recvfrom() of nothing then polls.
Result<void> prefer_busy_poll(int socket_fd);

// The kernel's number for the receive work behind a socket; 0: it knows of none, and polling does nothing.
// Kernels before 6.14 learn it from the first packet, later ones from the driver at bind(2).
std::uint32_t napi_of(int socket_fd);

// While somebody polls, the NIC's interrupts stay off for this long after the last packet.
struct DeferredInterrupts {
  std::uint32_t hard_irqs = 2;  // polls that find nothing before interrupts come back
  std::uint64_t flush_ns = 200'000;
};
// For a device of the calling thread's network namespace: each of its NAPIs by netlink (Linux 6.13), else the
// whole device by sysfs. Says which.
enum class DeferredBy : std::uint8_t { kNapi, kDevice };
Result<DeferredBy> defer_interrupts(const std::string& netdev, const DeferredInterrupts& settings);

}  // namespace sluice::bench
