#include "bench/dpdk_guest.h"

namespace sluice::bench {

Result<std::unique_ptr<Receiver>> open_dpdk_guest(const std::string&, const std::string&, std::uint32_t,
                                                  bool) {
  return fail("built without DPDK (package libdpdk-dev)");
}

}  // namespace sluice::bench
