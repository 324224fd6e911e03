// TapType: ports that are a tap device of the host's, of their config.
#pragma once

#include "control/port_types/port_type.h"

namespace sluice {

class TapType final : public PortType {
 public:
  PortTraits traits(const PortConfig& config) const override;
  Descriptors descriptors(const PortConfig& config, std::size_t workers) const override;
  Result<std::unique_ptr<Port>> make(const PortConfig& config, const PortPlace& place,
                                     const PortServices& services) override;
};

}  // namespace sluice
