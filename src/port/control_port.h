// Port: where packets enter or leave, as the control thread sees it: an app, a guest, the host's tap. What
// the workers have of it are its lanes (port.h).
//
// A port runs from the moment it is made until it is destroyed. Making one may fail and then leaves nothing
// behind; ending one cannot fail, and what has to wait for the kernel waits elsewhere.
#pragma once

#include <cstdint>
#include <functional>

#include "base/ids.h"
#include "port/port_info.h"
#include "stats/counter.h"

namespace sluice {

class PagePool;

class Port {
 public:
  virtual ~Port() = default;  // its lanes are out of the workers' tables, its queues begin to close

  virtual PortId id() const = 0;
  // Ends the session of a peer that held workers up, and lets nobody in for so long. A port without sessions
  // has nobody to cut off.
  virtual void cut_off_stalled(std::uint64_t nobody_for_ns) { (void)nobody_for_ns; }

  // Totals since the port was made, over all sessions and lanes.
  virtual void visit(CounterVisitor& visitor) const = 0;
  // The pools of a port that has memory of its own.
  virtual void visit_pools(const std::function<void(const PagePool&)>& visit) const { (void)visit; }
  virtual PortInfo info() const = 0;
};

}  // namespace sluice
