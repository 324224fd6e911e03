#include "control/port_types/app_type.h"

#include "base/unix_socket.h"
#include "control/port_types/options_of.h"
#include "port/app/app_port.h"
#include "port/source_guard.h"

namespace sluice {

namespace {
constexpr std::uint64_t kNsPerSecond = 1'000'000'000;
}

PortTraits AppType::traits(const PortConfig& config) const {
  const AppConfig& app = *config.app();
  return {.trusted = app.trust,
          .queues = app.queues,
          .observe = app.observe,
          .stall_budget_us = app.stall_budget_us,
          .stall_window_ms = app.stall_window_ms};
}

PortType::Descriptors AppType::descriptors(const PortConfig&, std::size_t workers) const {
  return {.port = kAppPortDescriptors, .session = app_session_descriptors(workers)};
}

Result<std::unique_ptr<Port>> AppType::make(const PortConfig& config, const PortPlace& place,
                                            const PortServices& services) {
  const AppConfig& app = *config.app();
  AppPortOptions options;
  options.id = place.id;
  options.name = config.name;
  options.socket = app.socket;
  options.policy = SLUICE_TRY(policy_of(app));
  options.pages = app.pages;
  options.page_bytes = place.page_bytes;
  options.huge = place.huge;
  options.ring_entries = app.ring;
  options.attach_interval_ns = app.attach_rate == 0 ? 0 : kNsPerSecond / app.attach_rate;
  options.stall_timeout_ns = std::uint64_t{app.stall_timeout_ms} * 1'000'000;
  options.source_macs = config.mac;
  options.vlan = config.vlan;
  options.trust = app.trust;
  options.waker = place.waker;
  options.limits = SLUICE_TRY(make_source_limits(config.source_ip, config.frame_rate, config.broadcast_rate));
  options.uplink = place.uplink;
  options.workers = place.workers;
  options.worker_sends = place.worker_sends;
  if (place.uplink == PortId::kDrop) {
    options.worker_sends.assign(place.workers.size(), place.has_neighbours);
  }
  options.owned = place.owned;
  options.doors = kernel_refuses_descriptors() ? nullptr : &doors_;
  return SLUICE_TRY(AppPort::create(std::move(options), loop_, services));
}

}  // namespace sluice
