// AppType: ports of type "app", of their config.
#pragma once

#include "base/event_loop.h"
#include "control/port_types/port_type.h"
#include "door/doors.h"

namespace sluice {

class AppType final : public PortType {
 public:
  AppType(EventLoop& loop, Doors& doors) : loop_(loop), doors_(doors) {}

  PortTraits traits(const PortConfig& config) const override;
  Descriptors descriptors(const PortConfig& config, std::size_t workers) const override;
  Result<std::unique_ptr<Port>> make(const PortConfig& config, const PortPlace& place,
                                     const PortServices& services) override;

 private:
  EventLoop& loop_;
  Doors& doors_;
};

}  // namespace sluice
