// The engine's ports of type "app", and the queues that they own.
#include <algorithm>

#include "base/check.h"
#include "base/unix_socket.h"
#include "control/engine/engine.h"
#include "control/engine/options_of.h"

namespace sluice {

namespace {
constexpr std::uint64_t kNsPerSecond = 1'000'000'000;
}

Result<AppPortOptions> Engine::app_options(const PortConfig& port, const std::optional<std::string>& uplink) {
  AppPortOptions options;
  const AppConfig& app = *port.app();
  options.name = port.name;
  options.socket = app.socket;
  auto policy = policy_of(app);
  SLUICE_TRY(policy);
  options.policy = std::move(*policy);
  options.pages = app.pages;
  options.page_bytes = target_.daemon.page_bytes;
  options.huge = huge_option(target_.daemon.huge_pages);
  options.ring_entries = app.ring;
  options.attach_interval_ns = app.attach_rate == 0 ? 0 : kNsPerSecond / app.attach_rate;
  options.stall_timeout_ns = std::uint64_t{app.stall_timeout_ms} * 1'000'000;
  options.source_macs = port.mac;
  options.vlan = port.vlan;
  options.trust = app.trust;
  options.waker = waker_.get();
  auto limits = make_source_limits(port.source_ip, port.frame_rate, port.broadcast_rate);
  if (!limits) {
    return std::unexpected(limits.error());
  }
  options.limits = std::move(*limits);
  Nic* uplink_nic = nullptr;
  if (uplink) {
    auto found = nics_.find(*uplink);
    if (found == nics_.end()) {
      return fail("its uplink {} is not there", *uplink);
    }
    uplink_nic = found->second.get();
    options.uplink = uplink_nic->port();
  }
  for (const auto& worker : workers_) {
    options.workers.push_back(worker->id());
    // Without an uplink it can still reach the guests that have none either.
    options.worker_sends.push_back(uplink_nic != nullptr ? uplink_nic->worker_sends(worker->id())
                                                         : has_isolated_members());
  }
  for (const QueueName& name : app.queues) {
    auto found = nics_.find(name.netdev);
    if (found == nics_.end()) {
      return fail("its queue {}:{} is on a NIC that is not there", name.netdev, name.queue);
    }
    Nic& unit = *found->second;
    QueueId queue{name.queue};
    const auto& given = unit.given_queues();
    if (std::find(given.begin(), given.end(), queue) == given.end()) {
      return fail("its queue {}:{} does not exist: nic {} has {} RX queues", name.netdev, name.queue,
                  name.netdev, unit.info().rx_queues);
    }
    NicQueueOptions queue_options = unit.queue_options(queue, unit.mode());
    options.owned.push_back(
        OwnedQueue{unit.id(), queue, worker_of(queue, workers_.size()), pages_for_queue(queue_options, 0)});
  }
  return options;
}

Result<void> Engine::add_app(const PortConfig& config, PortId id) {
  // Of the NICs that there are: one that was asked for and cannot be had leaves the other the only one.
  auto options = app_options(config, uplink_of(target_, config));
  SLUICE_TRY(options);
  options->id = id;
  OwnedDomain& domain = domains_[id];
  domain.queues = options->owned;
  domain.observe = config.app()->observe;
  for (const OwnedQueue& owned : domain.queues) {
    nic_by_id(owned.nic)->close_queue(owned.queue);
  }
  options->doors = kernel_refuses_descriptors() ? nullptr : &doors_;
  auto port = AppPort::create(std::move(*options), loop_, *this);
  SLUICE_TRY(port);
  apps_[config.name] = std::move(*port);
  return {};
}

Result<void> Engine::open_queues(PortId port, Arena& arena, std::span<PagePool* const> pools) {
  OwnedDomain& domain = domains_.at(port);
  SLUICE_CHECK(pools.size() == domain.queues.size(), "{} pools for {} queues", pools.size(),
               domain.queues.size());
  if (domain.queues.empty()) {
    return {};
  }
  auto umem = Umem::create(arena);
  if (!umem) {
    return std::unexpected(umem.error());
  }
  domain.umem = std::move(*umem);
  domain.pools.assign(pools.begin(), pools.end());
  for (std::size_t index = 0; index < domain.queues.size(); ++index) {
    open_owned_queue(port, index);
  }
  return {};
}

void Engine::open_owned_queue(PortId owner, std::size_t index) {
  OwnedDomain& domain = domains_.at(owner);
  const OwnedQueue& owned = domain.queues[index];
  if (Nic* unit = nic_by_id(owned.nic)) {  // else away at present: opened when the NIC comes back
    unit->open_owned_queue(owned.queue, owner, domain.observe, *domain.umem, *domain.pools[index]);
  }
}

bool Engine::queues_are_opening(PortId port) {
  return std::ranges::any_of(keeper_->queues(), [port](const auto& queue) {
    return queue->wish().owner == port && queue->state() == QueueState::kOpening;
  });
}

void Engine::close_queues(PortId port, std::function<void()> closed) {
  OwnedDomain& domain = domains_.at(port);
  for (const OwnedQueue& owned : domain.queues) {
    Nic* unit = nic_by_id(owned.nic);
    if (unit == nullptr) {
      continue;
    }
    auto open = unit->queues().find(owned.queue);
    if (open != unit->queues().end() && open->second->wish().owner == port) {
      unit->close_queue(owned.queue);
    }
  }
  domain.pools.clear();
  // Also for those that a NIC left behind when it went.
  std::shared_ptr<Umem> umem = std::move(domain.umem);
  const Umem* used = umem.get();
  keeper_->when_unused(used, [umem = std::move(umem), closed = std::move(closed)]() mutable {
    umem.reset();
    closed();
  });
}

}  // namespace sluice
