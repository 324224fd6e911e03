#include "memory/pool_bench.h"

namespace sluice::bench {

std::vector<Side> peer_sides(std::string& why_not) {
  why_not = "built without DPDK (install libdpdk-dev and configure again)";
  return {};
}

}  // namespace sluice::bench
