#include "port/port.h"

#include "base/check.h"

namespace sluice {

void Sink::hand_over(const BurstInfo& info, std::span<Packet> packets) {
  SLUICE_CHECK(packets.empty(), "{} pages of domain {} handed over to a sink that takes none", packets.size(),
               raw(info.domain));
}

}  // namespace sluice
