// The machine as it is: NICs by XDP, devices by name.
#include <net/if.h>

#include "control/engine/attached_nic.h"

namespace sluice {

namespace {

class RealMachine final : public Machine {
 public:
  Result<std::unique_ptr<Nic>> attach(const NicConfig& config, const Nic::Wiring& wiring) override {
    return AttachedNic::attach(config, wiring);
  }
  Result<NicInfo> nic_info(const std::string& netdev) override { return read_nic_info(netdev); }
  unsigned ifindex(const std::string& netdev) override { return ::if_nametoindex(netdev.c_str()); }
};

}  // namespace

Machine& Machine::real() {
  static RealMachine machine;
  return machine;
}

}  // namespace sluice
