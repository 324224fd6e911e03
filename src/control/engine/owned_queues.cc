#include "control/engine/owned_queues.h"

#include <algorithm>

#include "base/check.h"

namespace sluice {

void OwnedQueues::claim(PortId port, const std::vector<OwnedQueue>& queues, bool observe) {
  Domain& domain = domains_[port];
  domain.queues = queues;
  domain.observe = observe;
  for (const OwnedQueue& owned : queues) {
    if (Nic* nic = parts_.nic(owned.nic)) {
      nic->close_queue(owned.queue);
    }
  }
}

std::vector<OwnedQueue> OwnedQueues::release(PortId port) {
  auto found = domains_.find(port);
  if (found == domains_.end()) {
    return {};
  }
  std::vector<OwnedQueue> queues = std::move(found->second.queues);
  domains_.erase(found);
  return queues;
}

void OwnedQueues::nic_is_back(Nic& nic) {
  for (auto& [port, domain] : domains_) {
    for (std::size_t index = 0; index < domain.pools.size(); ++index) {
      if (domain.queues[index].nic == nic.id()) {
        open(port, domain, index);
      }
    }
  }
}

Result<void> OwnedQueues::open_queues(PortId port, Arena& arena, std::span<PagePool* const> pools) {
  Domain& domain = domains_.at(port);
  SLUICE_CHECK(pools.size() == domain.queues.size(), "{} pools for {} queues", pools.size(),
               domain.queues.size());
  if (domain.queues.empty()) {
    return {};
  }
  domain.umem = SLUICE_TRY(parts_.make_umem(arena));
  domain.pools.assign(pools.begin(), pools.end());
  for (std::size_t index = 0; index < domain.queues.size(); ++index) {
    open(port, domain, index);
  }
  return {};
}

void OwnedQueues::open(PortId port, Domain& domain, std::size_t index) {
  const OwnedQueue& owned = domain.queues[index];
  if (Nic* nic = parts_.nic(owned.nic)) {  // else away at present: opened when the NIC comes back
    nic->open_owned_queue(owned.queue, port, domain.observe, *domain.umem, *domain.pools[index]);
  }
}

bool OwnedQueues::queues_are_opening(PortId port) const {
  return std::ranges::any_of(parts_.keeper->queues(), [port](const auto& queue) {
    return queue->wish().owner == port && queue->state() == QueueState::kOpening;
  });
}

void OwnedQueues::close_queues(PortId port, std::function<void()> closed) {
  Domain& domain = domains_.at(port);
  for (const OwnedQueue& owned : domain.queues) {
    Nic* nic = parts_.nic(owned.nic);
    if (nic != nullptr && nic->owner_of(owned.queue) == port) {
      nic->close_queue(owned.queue);
    }
  }
  domain.pools.clear();
  // Also for those that a NIC left behind when it went.
  std::shared_ptr<Umem> umem = std::move(domain.umem);
  const Umem* used = umem.get();
  parts_.keeper->when_unused(used, [umem = std::move(umem), closed = std::move(closed)]() mutable {
    umem.reset();
    closed();
  });
}

}  // namespace sluice
