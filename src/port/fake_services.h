// FakeServices: the control side that a port stands on, for tests: remembers lanes and states, has no
// workers to pause and no queues. Tests override what they want to see.
#pragma once

#include <map>
#include <utility>

#include "port/port_services.h"

namespace sluice::test {

class FakeServices : public LaneTable, public PortStates, public QueueOwner {
 public:
  PortServices services() { return {*this, *this, *this}; }

  void install_lane(PortId port, WorkerId worker, Lane* lane) override { installed[{port, worker}] = lane; }
  void remove_lane(PortId port, WorkerId worker) override { installed.erase({port, worker}); }
  bool pause(std::span<const WorkerId>, Patience, const std::function<void()>& change) override {
    change();
    return true;
  }
  void set_attached(PortId port, bool on) override { states[port] = on; }
  void set_pressure(PortId, WorkerId, bool) override {}
  Result<void> open_queues(PortId, Arena&, std::span<PagePool* const>) override { return {}; }
  bool queues_are_opening(PortId) const override { return false; }
  void close_queues(PortId, std::function<void()> closed) override { closed(); }

  Lane& lane(PortId port, WorkerId worker = WorkerId{0}) { return *installed.at({port, worker}); }

  std::map<std::pair<PortId, WorkerId>, Lane*> installed;
  std::map<PortId, bool> states;
};

}  // namespace sluice::test
