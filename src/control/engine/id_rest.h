// IdRest: frames carry the ids of ports and NICs: in the RX rings, in front of each packet, and in a worker's
// hand. An id that was given back is another's only when every worker has emptied its queues once since.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/event_loop.h"
#include "control/engine/resting_ids.h"
#include "control/engine/workers.h"

namespace sluice {

// Control thread.
class IdRest {
 public:
  IdRest(EventLoop& loop, Workers& workers, RestingIds& ports, RestingIds& nics)
      : loop_(loop), workers_(workers), ids_{&ports, &nics} {}
  ~IdRest() { stop(); }

  // Some may have been given back.
  void begin() {
    if (timer_ != 0 || (!ids_[0]->any_resting() && !ids_[1]->any_resting())) {
      return;
    }
    for (RestingIds* ids : ids_) {
      ids->begin_round();
    }
    begun_ = workers_.turns();
    timer_ = loop_.every(kRestNs, [this] { look(); });
  }

 private:
  // At the least: what the XDP program has begun with an old entry is long done.
  static constexpr std::uint64_t kRestNs = 100'000'000;

  void look() {
    if (!workers_.have_emptied_rings(begun_)) {
      return;
    }
    for (RestingIds* ids : ids_) {
      ids->end_round();
    }
    stop();
    begin();
  }
  void stop() {
    if (timer_ != 0) {
      loop_.cancel(std::exchange(timer_, 0));
    }
  }

  EventLoop& loop_;
  Workers& workers_;
  const std::array<RestingIds*, 2> ids_;
  std::vector<std::uint64_t> begun_;  // turns of the workers, when the present round began
  EventLoop::TimerId timer_ = 0;
};

}  // namespace sluice
