// VethPair: a wire. One end is the NIC under test, the other the world.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "test/support/frame.h"
#include "test/support/net_ns.h"

namespace sluice::test {

struct VethOptions {
  std::uint32_t queues =
      1;  // RX and TX queues of both ends (LiveFrames reach the queue of the sending CPU's number,
          // modulo queues; AF_XDP TX on queue i of one end reaches queue i of the other)
  std::uint32_t mtu = 1500;
  std::string nic_name = "nic0", wire_name = "wire0";
  std::string nic_ip = "10.77.0.1", wire_ip = "10.77.0.2";  // in a /24
  Mac nic_mac{0x02, 0, 0, 0, 0, 0x01}, wire_mac{0x02, 0, 0, 0, 0, 0x02};
};

class VethPair {
 public:
  // Both up, with addresses; GRO on the NIC's end, so that XDP redirect into the wire end works also while
  // the NIC has no XDP program. The namespaces must outlive the pair; they may be the same one.
  static Result<VethPair> create(const NetNs& nic_ns, const NetNs& wire_ns, const VethOptions& options = {});

  const VethOptions& options() const { return options_; }
  int nic_ifindex() const { return nic_ifindex_; }
  int wire_ifindex() const { return wire_ifindex_; }
  const NetNs& nic_ns() const { return *nic_ns_; }
  const NetNs& wire_ns() const { return *wire_ns_; }

  // A frame for the NIC's end.
  UdpFrame to_nic() const;
  // A counter of `ethtool -S`, summed over the queues: "xdp_drops" of the NIC's end is what the wire could
  // not deliver.
  std::uint64_t nic_statistic(const std::string& name) const;
  void remove();  // both ends vanish

 private:
  VethOptions options_;
  const NetNs* nic_ns_ = nullptr;
  const NetNs* wire_ns_ = nullptr;
  int nic_ifindex_ = 0, wire_ifindex_ = 0;
};

}  // namespace sluice::test
