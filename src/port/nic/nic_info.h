// What there is to know about a network device, asked of the kernel by netlink and ethtool, in the calling
// thread's network namespace.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/result.h"

namespace sluice {

struct NicInfo {
  std::string netdev;
  int ifindex = 0;
  std::array<std::uint8_t, 6> mac{};
  std::uint32_t mtu = 0;
  std::uint32_t rx_queues = 0;  // in use now (ethtool -l), not what the driver could have
  std::uint32_t tx_queues = 0;
  std::string driver;    // "veth"; empty when the device has no ethtool
  bool up = false;       // set up by somebody (IFF_UP)
  bool carrier = false;  // and there is a wire (IFF_RUNNING)
};

Result<NicInfo> read_nic_info(const std::string& netdev);

// What is wrong with the zero-copy mode of this NIC's driver, as a sentence; empty where nothing is known.
std::string zero_copy_flaw(const NicInfo& info);

}  // namespace sluice
