// The engine's NICs: attached, detached, lost and found again.
#include <net/if.h>

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "control/engine/engine.h"

namespace sluice {

// All queues of all new NICs share one arena, so its size is the sum over them.
Result<void> Engine::reserve_host_memory(const std::vector<Action>& actions) {
  std::uint64_t pages = 0;
  for (const Action& action : actions) {
    const auto* add = std::get_if<AddNic>(&action);
    if (add == nullptr) {
      continue;
    }
    auto info = read_nic_info(add->nic.netdev);
    if (!info) {
      continue;  // AddNic will say so
    }
    NicQueueOptions options;
    options.ring_entries = add->nic.ring;
    std::uint64_t queues = add->nic.queues ? add->nic.queues->size() : info->rx_queues;
    pages += queues * pages_for_queue(options, 0);
  }
  if (pages == 0) {
    return {};
  }
  return host_memory_->reserve(pages);
}

Result<void> Engine::perform(const AddNic& action) {
  const std::string& netdev = action.nic.netdev;
  auto id = free_nic_ids_.take();
  if (!id) {
    return free_nic_ids_.any_resting()
               ? fail("packets of a removed NIC are still under way, and no other id is free; try again")
               : fail("more than {} NICs", kMaxNics);
  }
  nic_ids_[netdev] = NicId{*id};
  auto port = names_.take("nic:" + netdev);
  auto attached = port ? attach_nic(action.nic) : std::unexpected(port.error());
  if (!attached) {
    give_back_nic(netdev);
    return attached;
  }
  unsettled_.insert(netdev);
  return {};
}

Result<void> Engine::perform(const RemoveNic& action) {
  detach_nic(action.netdev);
  rules_.erase(action.netdev);
  unsettled_.erase(action.netdev);
  unruled_.erase(action.netdev);
  give_back_nic(action.netdev);
  return {};
}

void Engine::give_back_nic(const std::string& netdev) {
  free_nic_ids_.give_back(raw(nic_ids_.at(netdev)));
  nic_ids_.erase(netdev);
  names_.give_back("nic:" + netdev);
}

Result<void> Engine::attach_nic(const NicConfig& config) {
  const std::string& netdev = config.netdev;
  Nic::Wiring wiring;
  wiring.id = nic_ids_.at(netdev);
  wiring.port = names_.all().at("nic:" + netdev);
  wiring.workers = workers_;
  wiring.keeper = keeper_.get();
  auto attached = Nic::attach(config, wiring);
  if (!attached) {
    return std::unexpected(attached.error());
  }
  Nic& unit = **attached;
  for (const auto& [port, entry] : port_table_) {
    SLUICE_TRY(unit.demux().set_port(port, entry));
  }
  for (std::uint16_t port = kFirstFreePortId; port < kMaxPorts; ++port) {
    std::uint64_t bits = pressure_[port].load();
    for (const auto& worker : workers_) {
      if ((bits >> raw(worker->id()) & 1) != 0) {
        unit.demux().set_pressure(PortId{port}, worker->id(), true);
      }
    }
  }
  for (QueueId queue : unit.given_queues()) {
    if (!is_owned_in_target(netdev, queue)) {
      unit.open_host_queue(queue);
    }
  }
  demuxes_[raw(unit.id())].store(&unit.demux());
  nics_[netdev] = std::move(*attached);
  rules_[netdev] = RuleTable();
  return {};
}

void Engine::detach_nic(const std::string& netdev) {
  auto found = nics_.find(netdev);
  if (found == nics_.end()) {
    return;  // configured, but away
  }
  Nic& unit = *found->second;
  demuxes_[raw(unit.id())].store(nullptr);
  for (const auto& worker : workers_) {
    worker->call([](Worker::Tables&) {});  // no worker is inside set_pressure() with the old value any more
  }
  nics_.erase(found);
}

void Engine::on_nic_event(const NicEvent& event) {
  if (event.what == NicEvent::What::kRemoved || event.what == NicEvent::What::kRenamed) {
    const std::string& was = event.what == NicEvent::What::kRenamed ? event.old_name : event.netdev;
    auto found = nics_.find(was);
    if (found != nics_.end() && found->second->info().ifindex == event.ifindex) {
      log::warn("nic {}: the device is gone; its ports wait for it to come back", was);
      detach_nic(was);
    }
  }
  if (event.what == NicEvent::What::kAppeared || event.what == NicEvent::What::kRenamed) {
    nic_appeared(event.netdev);
  }
  if (event.what == NicEvent::What::kAppeared || event.what == NicEvent::What::kRemoved ||
      event.what == NicEvent::What::kRenamed) {
    refresh_netdev_ports();
  }
  auto unit = nics_.find(event.netdev);
  if (unit == nics_.end()) {
    return;
  }
  if (event.what == NicEvent::What::kUp || event.what == NicEvent::What::kDown) {
    log::info("nic {}: link {}", event.netdev, event.up ? "up" : "down");
  } else if (event.what == NicEvent::What::kMtu) {
    log::info("nic {}: MTU {}", event.netdev, event.mtu);
  }
  if (auto info = read_nic_info(event.netdev)) {
    unit->second->update_info(*info);
  }
}

void Engine::nic_appeared(const std::string& netdev) {
  auto config = current_.nics.find(netdev);
  if (config == current_.nics.end() || nics_.contains(netdev)) {
    return;
  }
  if (auto attached = attach_nic(config->second); !attached) {
    log_once(fmt::format("nic {} is back, but cannot be used", netdev), attached.error());
    retry_later();
    return;
  }
  nic_retry_pause_ns_ = 0;
  Nic& unit = *nics_.at(netdev);
  for (auto& [port, domain] : domains_) {
    for (std::size_t index = 0; index < domain.pools.size(); ++index) {
      const OwnedQueue& owned = domain.queues[index];
      if (owned.nic != unit.id()) {
        continue;
      }
      open_owned_queue(port, index);
    }
  }
  unruled_.insert(netdev);
  retry();
}

// A netdev that rules lead to may have a new ifindex, or none.
void Engine::refresh_netdev_ports() {
  for (const auto& [name, id] : names_.all()) {
    if (!name.starts_with("netdev:")) {
      continue;
    }
    unsigned ifindex = ::if_nametoindex(name.c_str() + std::string_view("netdev:").size());
    const PortEntry entry = netdev_entry(ifindex);
    port_table_[id] = entry;
    for (auto& [netdev, unit] : nics_) {
      if (auto set = unit->demux().set_port(id, entry); !set) {
        log::warn("nic {}: {}: {}", netdev, name, set.error().message);
      }
    }
  }
}

}  // namespace sluice
