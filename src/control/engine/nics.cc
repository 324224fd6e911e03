#include "control/engine/nics.h"

#include <algorithm>

#include "base/log.h"

namespace sluice {

namespace {

// To attach a NIC is to have its program verified, which takes control a while: less and less often.
constexpr std::uint64_t kRetryNs = 1'000'000'000;
constexpr std::uint64_t kLongestRetryNs = 60'000'000'000;

std::string port_name(const std::string& netdev) {
  return "nic:" + netdev;
}

}  // namespace

Result<void> Nics::add(const NicConfig& config) {
  const auto id = free_.take();
  if (!id) {
    return free_.any_resting()
               ? fail("packets of a removed NIC are still under way, and no other id is free; try again")
               : fail("more than {} NICs", kMaxNics);
  }
  Known& nic = known_[config.netdev] = {.config = config, .id = NicId{*id}};
  Result<void> added;
  try {
    const auto port = parts_.table->take(port_name(config.netdev));
    if (port) {
      nic.port = *port;
    }
    added = port ? attach(nic) : Result<void>(std::unexpected(port.error()));
  } catch (...) {  // no memory
    remove(config.netdev);
    throw;
  }
  if (!added) {
    remove(config.netdev);
  }
  return added;
}

void Nics::remove(const std::string& netdev) {
  detach(netdev);
  free_.give_back(raw(known_.at(netdev).id));
  known_.erase(netdev);
  (void)parts_.table->give_back(port_name(netdev));
}

Result<void> Nics::attach(const Known& known) {
  const std::string& netdev = known.config.netdev;
  auto attached = SLUICE_TRY(parts_.machine->attach(
      known.config,
      {.id = known.id, .port = known.port, .workers = parts_.workers, .keeper = parts_.keeper}));
  Nic& nic = *attached;
  SLUICE_TRY(parts_.table->add_program(nic.id(), netdev, nic.program()));
  attached_[netdev] = std::move(attached);
  parts_.table->set_attached(known.port, true);  // what rules lead to it comes to the workers
  for (QueueId queue : nic.given_queues()) {
    if (!parts_.is_owned(netdev, queue)) {
      nic.open_host_queue(queue);
    }
  }
  return {};
}

void Nics::detach(const std::string& netdev) {
  auto found = attached_.find(netdev);
  if (found != attached_.end()) {  // else configured, but away
    parts_.table->set_attached(found->second->port(), false);
    parts_.table->remove_program(found->second->id());
    attached_.erase(found);
  }
}

void Nics::detach_all() {
  while (!attached_.empty()) {
    detach(std::string(attached_.begin()->first));
  }
}

Nic* Nics::find(const std::string& netdev) const {
  auto found = attached_.find(netdev);
  return found == attached_.end() ? nullptr : found->second.get();
}

Nic* Nics::find(NicId id) const {
  auto found = std::ranges::find_if(attached_, [id](const auto& nic) { return nic.second->id() == id; });
  return found == attached_.end() ? nullptr : found->second.get();
}

std::string Nics::name_of(NicId id) const {
  auto found = std::ranges::find_if(known_, [id](const auto& nic) { return nic.second.id == id; });
  return found == known_.end() ? "" : found->first;
}

void Nics::on_event(const NicEvent& event) {
  using What = NicEvent::What;
  if (event.what == What::kRemoved || event.what == What::kRenamed) {
    const std::string& was = event.what == What::kRenamed ? event.old_name : event.netdev;
    if (Nic* nic = find(was); nic != nullptr && nic->info().ifindex == event.ifindex) {
      log::warn("nic {}: the device is gone; its ports wait for it to come back", was);
      detach(was);
    }
  }
  if (event.what == What::kAppeared || event.what == What::kRenamed) {
    appeared(event.netdev);
  }
  Nic* nic = find(event.netdev);
  if (nic == nullptr) {
    return;
  }
  if (event.what == What::kUp || event.what == What::kDown) {
    log::info("nic {}: link {}", event.netdev, event.up ? "up" : "down");
  } else if (event.what == What::kMtu) {
    log::info("nic {}: MTU {}", event.netdev, event.mtu);
  }
  if (auto info = parts_.machine->nic_info(event.netdev)) {
    nic->update_info(*info);
  }
}

void Nics::appeared(const std::string& netdev) {
  auto known = known_.find(netdev);
  if (known == known_.end() || attached_.contains(netdev)) {
    return;
  }
  if (auto attached = attach(known->second); !attached) {
    parts_.report(fmt::format("nic {} is back, but cannot be used", netdev), attached.error());
    return;
  }
  retry_pause_ns_ = 0;
  parts_.came_back(*attached_.at(netdev));
}

bool Nics::any_left() const {
  return std::ranges::any_of(known_, [this](const auto& nic) {
    return !attached_.contains(nic.first) && parts_.machine->ifindex(nic.first) != 0;
  });
}

// A device that is not there comes as an event.
void Nics::retry(std::uint64_t now_ns) {
  if (now_ns < retry_at_ns_ || !any_left()) {
    return;
  }
  retry_pause_ns_ = std::clamp(retry_pause_ns_ * 2, kRetryNs, kLongestRetryNs);
  retry_at_ns_ = now_ns + retry_pause_ns_;
  for (const auto& [netdev, known] : known_) {
    if (!attached_.contains(netdev) && parts_.machine->ifindex(netdev) != 0) {
      appeared(netdev);
    }
  }
}

}  // namespace sluice
