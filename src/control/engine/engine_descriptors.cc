// How many descriptors a config needs.
#include "base/descriptors.h"

#include "control/engine/engine.h"

namespace sluice {

namespace {

// The daemon's own: loop, mailboxes, timers, the control socket; per worker its mailbox and two epoll sets.
constexpr std::uint64_t kOwn = 24;
constexpr std::uint64_t kPerWorker = 3;
// Program, maps, link, netlink and packet socket of a NIC; socket and arena of each queue.
constexpr std::uint64_t kPerNic = 24;
constexpr std::uint64_t kPerQueue = 3;

}  // namespace

std::uint64_t port_descriptors(const PortConfig& port, std::size_t workers) {
  return port.guest() != nullptr ? guest_port_descriptors(workers)
         : port.tap() != nullptr ? workers
                                 : kAppPortDescriptors;
}

std::uint64_t session_descriptors(const PortConfig& port, std::size_t workers) {
  if (const auto* guest = port.guest()) {
    return guest_session_descriptors(guest->queue_pairs);
  }
  return port.tap() != nullptr ? 0 : app_session_descriptors(workers);
}

std::uint64_t descriptors_needed(const Config& config, std::size_t workers) {
  std::uint64_t needed = kDescriptorsKept + kOwn + kPerWorker * workers;
  needed += config.nics.size() * (kPerNic + kPerQueue * workers);
  for (const auto& [name, port] : config.ports) {
    needed += port_descriptors(port, workers) + session_descriptors(port, workers);
  }
  return needed;
}

}  // namespace sluice
