#include "control/port_types/tap_type.h"

#include "port/source_guard.h"
#include "port/tap/tap_port.h"

namespace sluice {

// The host's own device is trusted: the kernel bridges as it is told to.
PortTraits TapType::traits(const PortConfig& config) const {
  return {.on_switch = true, .trusted = true, .mode = config.tap()->mode};
}

PortType::Descriptors TapType::descriptors(const PortConfig&, std::size_t workers) const {
  return {.port = workers, .session = 0};
}

Result<std::unique_ptr<Port>> TapType::make(const PortConfig& config, const PortPlace& place,
                                            const PortServices& services) {
  const TapConfig& tap = *config.tap();
  TapPortOptions options;
  options.id = place.id;
  options.name = config.name;
  options.netdev = tap.netdev;
  options.mac = config.mac.front();
  options.addresses = tap.address;
  options.mtu = tap.mtu;
  options.vlan = config.vlan;
  options.limits = SLUICE_TRY(make_source_limits(config.source_ip, config.frame_rate, config.broadcast_rate));
  options.uplink = place.uplink;
  ServingFirst order = serving_first(place);
  options.workers = std::move(order.workers);
  options.serving = order.serving;
  return SLUICE_TRY(TapPort::create(std::move(options), services));
}

}  // namespace sluice
