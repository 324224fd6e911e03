#include "test/support/veth.h"

#include <net/if.h>

#include <cstdlib>
#include <sstream>

namespace sluice::test {

Result<VethPair> VethPair::create(const NetNs& nic_ns, const NetNs& wire_ns, const VethOptions& options) {
  VethPair pair;
  pair.options_ = options;
  pair.nic_ns_ = &nic_ns;
  pair.wire_ns_ = &wire_ns;
  const std::string queues = fmt::format("numrxqueues {0} numtxqueues {0}", options.queues);
  // One shell for each side: starting processes is what costs time here.
  Finished nic = nic_ns.command(
      fmt::format("set -e; ip link add {nic} address {nic_mac} mtu {mtu} {queues} type veth peer name {wire} "
                  "address {wire_mac} mtu {mtu} "
                  "{queues} netns {wire_ns}; ip addr add {ip}/24 dev {nic}; ip link set {nic} up; ethtool -K "
                  "{nic} gro on",
                  fmt::arg("nic", options.nic_name), fmt::arg("nic_mac", to_string(options.nic_mac)),
                  fmt::arg("mtu", options.mtu), fmt::arg("queues", queues),
                  fmt::arg("wire", options.wire_name), fmt::arg("wire_mac", to_string(options.wire_mac)),
                  fmt::arg("wire_ns", wire_ns.path()), fmt::arg("ip", options.nic_ip)));
  if (!nic.ok()) {
    return fail("cannot make a veth pair: {}", nic.output);
  }
  Finished wire =
      wire_ns.command(fmt::format("set -e; ip addr add {}/24 dev {}; ip link set {} up; ethtool -K {} gro on",
                                  options.wire_ip, options.wire_name, options.wire_name, options.wire_name));
  if (!wire.ok()) {
    return fail("cannot set up the wire end: {}", wire.output);
  }
  nic_ns.run([&] { pair.nic_ifindex_ = static_cast<int>(::if_nametoindex(options.nic_name.c_str())); });
  wire_ns.run([&] { pair.wire_ifindex_ = static_cast<int>(::if_nametoindex(options.wire_name.c_str())); });
  return pair;
}

UdpFrame VethPair::to_nic() const {
  UdpFrame frame;
  frame.destination = options_.nic_mac;
  frame.source = options_.wire_mac;
  frame.source_ip = options_.wire_ip;
  frame.destination_ip = options_.nic_ip;
  return frame;
}

std::uint64_t VethPair::nic_statistic(const std::string& name) const {
  std::istringstream lines(nic_ns_->command("ethtool -S " + options_.nic_name).output);
  std::uint64_t sum = 0;
  std::string line;
  while (std::getline(lines, line)) {
    auto colon = line.rfind(": ");
    if (colon != std::string::npos && colon >= name.size() &&
        line.compare(colon - name.size(), name.size(), name) == 0) {
      sum += std::strtoull(line.c_str() + colon + 2, nullptr, 10);
    }
  }
  return sum;
}

void VethPair::remove() {
  nic_ns_->command("ip link del " + options_.nic_name);
}

}  // namespace sluice::test
