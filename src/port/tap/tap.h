// Tap: a tap device of this process's own, in the calling thread's network namespace. It goes with its last
// queue. Control thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/mac.h"
#include "base/result.h"

namespace sluice {

struct TapOptions {
  std::string netdev;
  MacAddress mac{};
  std::vector<std::string> addresses;  // "192.0.2.1/24"
  std::uint32_t mtu = 1500;
  std::uint32_t queues = 1;
};

struct Tap {
  std::vector<UniqueFd> queues;  // non-blocking; each write and each read is one frame
  int ifindex = 0;
};

// Makes the device, sets it up as told and brings it up.
Result<Tap> make_tap(const TapOptions& options);
// What `ip link` says of the device: UP. One that is gone is not.
bool is_up(const std::string& netdev);

}  // namespace sluice
