#include "control/port_types/port_type.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/descriptors.h"

namespace sluice {

namespace {

// The daemon's own: loop, mailboxes, timers, the control socket; per worker its mailbox and two epoll sets.
constexpr std::uint64_t kOwn = 24;
constexpr std::uint64_t kPerWorker = 3;
// Program, maps, link, netlink and packet socket of a NIC; socket and arena of each queue.
constexpr std::uint64_t kPerNic = 24;
constexpr std::uint64_t kPerQueue = 3;

}  // namespace

ServingFirst serving_first(const PortPlace& place) {
  ServingFirst order;
  for (const bool sends : {true, false}) {
    for (std::size_t i = 0; i < place.workers.size(); ++i) {
      if (place.worker_sends[i] == sends) {
        order.workers.push_back(place.workers[i]);
        order.serving += sends ? 1 : 0;
      }
    }
  }
  return order;
}

PortType& type_of(const PortTypes& types, const PortConfig& config) {
  auto found = types.find(config.type());
  SLUICE_CHECK(found != types.end(), "port {} is has no type that there is: {}", config.name, config.type());
  return *found->second;
}

std::uint64_t descriptors_needed(const PortTypes& types, const Config& config, std::size_t workers) {
  std::uint64_t needed = kDescriptorsKept + kOwn + kPerWorker * workers;
  needed += config.nics.size() * (kPerNic + kPerQueue * workers);
  for (const auto& [name, port] : config.ports) {
    const PortType::Descriptors of_port = type_of(types, port).descriptors(port, workers);
    needed += of_port.port + of_port.session;
  }
  return needed;
}

}  // namespace sluice
