// What a step of the engine could not do is tried again; and ids that were given back rest.
#include <net/if.h>

#include <algorithm>

#include "base/clock.h"
#include "base/log.h"
#include "control/engine/engine.h"
#include "worker/port_meter.h"

namespace sluice {

namespace {

constexpr std::uint64_t kRetryNs = 1'000'000'000;
// To attach a NIC is to have its program verified, which takes control a while: less and less often.
constexpr std::uint64_t kLongestNicRetryNs = 60'000'000'000;
// At the least: what the XDP program has begun with an old entry is long done.
constexpr std::uint64_t kRestNs = 100'000'000;
// A worker takes kBurst from each queue in a turn, so after so many a full ring has been emptied once.
constexpr std::uint64_t kTurnsPerRing = 32768 / kBurst + 1;
// How long a worker that slept may take for a turn that it is asked for, before that is put off.
constexpr std::uint64_t kNudgeNs = 1'000'000;

}  // namespace

// --- what could not be done ---

void Engine::log_once(const std::string& what, const Error& error) {
  std::string& said = said_[what];
  if (said != error.message) {
    log::error("{}: {}; trying again", what, error.message);
    said = error.message;
  }
}

// When anything is left to do.
void Engine::retry_later() {
  bool nic_is_left = false;
  for (const auto& [netdev, config] : current_.nics) {
    nic_is_left |= !nics_.contains(netdev) && ::if_nametoindex(netdev.c_str()) != 0;
  }
  if (retry_timer_ == 0 && (nic_is_left || !unsettled_.empty() || !unruled_.empty() || !untold_.empty())) {
    retry_timer_ = loop_.once(kRetryNs, [this] {
      retry_timer_ = 0;
      retry_nics();
      retry();
    });
  }
}

// NICs that are there and could not be attached. A device that is not there comes as an event.
void Engine::retry_nics() {
  if (now_ns() < nic_retry_ns_) {
    return;
  }
  nic_retry_pause_ns_ = std::clamp(nic_retry_pause_ns_ * 2, kRetryNs, kLongestNicRetryNs);
  nic_retry_ns_ = now_ns() + nic_retry_pause_ns_;
  for (const auto& [netdev, config] : current_.nics) {
    if (!nics_.contains(netdev) && ::if_nametoindex(netdev.c_str()) != 0) {
      nic_appeared(netdev);
    }
  }
}

void Engine::retry() {
  const std::size_t said_before = said_.size();
  for (const std::string& netdev : std::exchange(unruled_, {})) {
    unsettled_.insert(netdev);
    if (auto set = perform(SetRules{netdev, rules_of(current_, netdev)}); !set) {
      log_once("rules of nic " + netdev, set.error());
      unruled_.insert(netdev);
    }
  }
  settle([this](const std::string& what, const Error& error) { log_once(what, error); });
  tell_programs();
  if (said_before != 0 && unruled_.empty() && unsettled_.empty() && untold_.empty()) {
    said_.clear();  // a new trouble is said anew
  }
  retry_later();
  let_ids_rest();
}

bool Engine::can_be_told(PortId id, const PortEntry& entry, std::string& failures) {
  bool told = true;
  for (auto& [netdev, unit] : nics_) {
    if (auto set = unit->demux().set_port(id, entry); !set) {
      told = false;
      failures += fmt::format("{}nic {}: {}", failures.empty() ? "" : "; ", netdev, set.error().message);
    }
  }
  return told;
}

void Engine::tell_programs() {
  std::erase_if(untold_, [this](PortId id) {
    std::string failures;
    if (!can_be_told(id, PortEntry{}, failures)) {
      log_once(fmt::format("entry {} of the port table", raw(id)), Error{failures});
      return false;
    }
    names_.give_back(id);
    return true;
  });
}

// --- ids that rest ---

// Frames carry the ids of ports and NICs: in the RX rings, in front of each packet, and in a worker's hand.
// An id that was given back is another's only when every worker has emptied its queues once since.
void Engine::let_ids_rest() {
  if (rest_timer_ != 0 || (!names_.resting().any_resting() && !free_nic_ids_.any_resting())) {
    return;
  }
  names_.resting().begin_round();
  free_nic_ids_.begin_round();
  rest_begun_.clear();
  for (const auto& worker : workers_) {
    rest_begun_.push_back(worker->turns());
  }
  rest_timer_ = loop_.every(kRestNs, [this] { look_at_rest(); });
}

void Engine::look_at_rest() {
  if (!frames_are_gone()) {
    return;
  }
  names_.resting().end_round();
  free_nic_ids_.end_round();
  loop_.cancel(std::exchange(rest_timer_, 0));
  let_ids_rest();
}

// A worker rests only after a turn that found no full burst, so all its rings were empty then. One that works
// on and on has emptied the largest ring after so many turns.
bool Engine::frames_are_gone() {
  for (std::size_t i = 0; i < workers_.size(); ++i) {
    Worker* const worker = workers_[i].get();
    if (worker->turns() == rest_begun_[i]) {
      Worker::pause({&worker, 1}, kNudgeNs, [] {});  // it may sleep
    }
    const std::uint64_t turns = worker->turns() - rest_begun_[i];
    const bool rests = turns > 0 && worker->meter().place() == PortMeter::kResting;
    if (!rests && turns < kTurnsPerRing) {
      return false;
    }
  }
  return true;
}

}  // namespace sluice
