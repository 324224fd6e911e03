#include "worker/active_lanes.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>

#include "base/check.h"
#include "worker/port_meter.h"

namespace sluice {

namespace {

constexpr int kEventsPerLook = 64;  // D6; the others stay readable until the next look

}  // namespace

ActiveLanes::ActiveLanes() {
  active_.reserve(kMaxPorts);  // no allocation while packets flow
}

void ActiveLanes::refresh(std::span<const Entry> all) {
  const auto watched = [this](const Entry& entry) {
    return entry.second->activity.resting && entry.second->activity.serial == serial_;
  };
  // Fewer than rested: one of them went, and its descriptor may live on in the peer.
  if (static_cast<std::size_t>(std::ranges::count_if(all, watched)) != resting_) {
    watch_anew(all);
  }
  active_.clear();
  active_.reserve(std::max<std::size_t>(all.size(), kMaxPorts));
  for (const auto& [port, lane] : all) {
    LaneActivity& activity = lane->activity;
    const bool changed = std::exchange(activity.changed, false);
    if (activity.resting && (changed || activity.serial != serial_)) {
      wake(*lane);
    } else if (!activity.resting) {
      active_.emplace_back(port, lane);
    }
  }
  lanes_active_.set(active_.size());
}

// A new set and not a changed one, for the same reason as Loop::build_wake_set().
void ActiveLanes::watch_anew(std::span<const Entry> all) {
  const std::uint64_t old = serial_++;
  resting_ = 0;
  watched_.reset();
  for (const auto& [port, lane] : all) {
    if (lane->activity.resting && lane->activity.serial == old && watch(*lane)) {
      ++resting_;
    }
  }
  lanes_resting_.set(resting_);
}

// False: out of descriptors or memory, or two lanes share one descriptor. The lane stays active then.
bool ActiveLanes::watch(Lane& lane) {
  if (lane.wake_fd() < 0) {  // work comes to it by delivery alone
    lane.activity.serial = serial_;
    return true;
  }
  if (!watched_) {
    watched_.reset(::epoll_create1(EPOLL_CLOEXEC));
  }
  epoll_event event{.events = EPOLLIN, .data = {.ptr = &lane}};
  if (!watched_ || ::epoll_ctl(watched_.get(), EPOLL_CTL_ADD, lane.wake_fd(), &event) != 0) {
    return false;
  }
  lane.activity.serial = serial_;
  return true;
}

void ActiveLanes::let_rest() {
  std::erase_if(active_, [this](const Entry& entry) {
    auto [port, lane] = entry;
    if (lane->activity.quiet_turns < kQuietTurns) {
      return false;
    }
    lane->activity.quiet_turns = 0;  // one that may not rest is asked again after as many turns
    return lane->may_rest() && rest(port, *lane);
  });
  lanes_active_.set(active_.size());
}

// Asked to be woken before it looks once more, watched after that: a wake-up in between leaves the descriptor
// readable, which a level-triggered set finds. [label: rest]
bool ActiveLanes::rest(PortId port, Lane& lane) {
  enter(port);
  const bool rests = !lane.prepare_sleep() && watch(lane);
  if (!rests) {
    lane.woken();
  }
  leave();
  if (!rests) {
    return false;
  }
  lane.activity.resting = true;
  lane.activity.port = port;
  lanes_resting_.set(++resting_);
  rests_.add(1);
  return true;
}

void ActiveLanes::enter(PortId port) {
  if (meter_ != nullptr) {
    meter_->enter(port);
  }
}

void ActiveLanes::leave() {
  if (meter_ != nullptr) {
    meter_->enter(PortMeter::kOwn);
  }
}

void ActiveLanes::wake(Lane& lane) {
  LaneActivity& activity = lane.activity;
  SLUICE_CHECK(activity.resting, "port {} does not rest", raw(activity.port));
  if (activity.serial == serial_) {
    if (lane.wake_fd() >= 0) {
      ::epoll_ctl(watched_.get(), EPOLL_CTL_DEL, lane.wake_fd(), nullptr);
    }
    lanes_resting_.set(--resting_);
  }
  activity.resting = false;
  activity.quiet_turns = 0;
  enter(activity.port);
  lane.woken();
  leave();
  active_.emplace_back(activity.port, &lane);
  lanes_active_.set(active_.size());
  rouses_.add(1);
}

bool ActiveLanes::look() {
  if (resting_ == 0) {
    return false;
  }
  std::array<epoll_event, kEventsPerLook> events;
  const int count = ::epoll_wait(watched_.get(), events.data(), kEventsPerLook, 0);
  for (int i = 0; i < count; ++i) {
    wake(*static_cast<Lane*>(events[static_cast<std::size_t>(i)].data.ptr));
  }
  return count > 0;
}

bool ActiveLanes::rouse(std::vector<Lane*>& delivered_to) {
  const bool any = !delivered_to.empty();
  for (Lane* lane : delivered_to) {
    lane->activity.delivered = false;
    wake(*lane);
  }
  delivered_to.clear();
  return any;
}

void ActiveLanes::visit(CounterVisitor& visitor) const {
  visitor.counter("lanes_active", lanes_active_.value());
  visitor.counter("lanes_resting", lanes_resting_.value());
  visitor.counter("lane_rests", rests_.value());
  visitor.counter("lane_rouses", rouses_.value());
}

}  // namespace sluice
