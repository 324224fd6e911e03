// TapPort: a tap device with an address of the host's own, so that host, guests and apps of one NIC can
// talk (macvtap cannot). Control thread; the workers see its lanes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/mac.h"
#include "base/result.h"
#include "port/control_port.h"
#include "port/port_services.h"
#include "port/source_guard.h"
#include "stats/counter.h"

namespace sluice {

inline constexpr std::uint32_t kMinHostMtu = 68;     // RFC 791
inline constexpr std::uint32_t kMaxHostMtu = 65521;  // of a tap device: 65535 less the Ethernet header

struct TapPortOptions {
  PortId id{0};
  std::string name;  // "host0"
  std::string
      netdev;  // of the tap device that is made, in this process's network namespace: 1 .. 15 characters
  MacAddress mac{};
  std::vector<std::string> addresses;  // "192.0.2.1/24", "2001:db8::1/64": set on the device
  std::uint32_t mtu = 1500;            // kMinHostMtu .. kMaxHostMtu
  std::uint16_t vlan = 0;              // access VLAN, 1 .. 4094; 0: none, frames go as they are
  SourceLimits limits;                 // `source_ip` and rates of what the host sends
  PortId uplink = PortId::kDrop;
  std::vector<WorkerId> workers;  // one lane each
  std::uint32_t serving = 0;  // the first so many have a queue of the device each, the others only deliver to
                              // the host; 0: all
};

class TapPort final : public Port {
 public:
  // Makes the device (not persistent: it goes with the daemon), sets MAC, MTU and addresses, brings it up.
  // Each worker of the list once gets its lane. Errors: the name is taken, no CAP_NET_ADMIN, no /dev/net/tun,
  // an address that is none.
  static Result<std::unique_ptr<TapPort>> create(TapPortOptions options, const PortServices& services);
  ~TapPort() override;  // takes the lanes out; the device is gone then

  const TapPortOptions& options() const;
  int ifindex() const;
  // copied copied_bytes rx_packets rx_bytes tx_packets tx_bytes drop_ring_full drop_link_down drop_refused
  // drop_vlan drop_too_long read_errors, of all lanes. rx is what the host receives. Any thread.
  void visit(CounterVisitor& visitor) const override;
  PortId id() const override;
  PortInfo info() const override;

 private:
  struct Impl;
  explicit TapPort(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
