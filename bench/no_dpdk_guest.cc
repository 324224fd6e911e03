#include "bench/dpdk_guest.h"

namespace sluice::bench {

Result<std::unique_ptr<Guest>> open_dpdk_guest(const GuestOptions&, bool) {
  return fail("built without DPDK (package libdpdk-dev)");
}

}  // namespace sluice::bench
