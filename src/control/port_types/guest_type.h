// GuestType: ports of type "guest", of their config, and what all guests share.
#pragma once

#include "base/event_loop.h"
#include "control/port_types/port_type.h"
#include "door/doors.h"
#include "port/guest/vhost_user/memory_budget.h"

namespace sluice {

class WorkerScratch;

class GuestType final : public PortType {
 public:
  // `memory_bytes`: what the regions of all guests may have together.
  GuestType(EventLoop& loop, Doors& doors, std::uint64_t memory_bytes);

  PortTraits traits(const PortConfig& config) const override;
  Descriptors descriptors(const PortConfig& config, std::size_t workers) const override;
  Result<std::unique_ptr<Port>> make(const PortConfig& config, const PortPlace& place,
                                     const PortServices& services) override;
  // A context to interrupt guests by, before any local user can take what fs.aio-max-nr allows: kept until
  // the thread ends.
  void prepare_worker(WorkerId worker) const override;
  void prepare_waker() const override;
  // guest_memory_bytes guest_memory_limit_bytes threads_without_aio
  void visit(CounterVisitor& visitor) const override;

 private:
  EventLoop& loop_;
  Doors& doors_;
  const std::shared_ptr<MemoryBudget> memory_;
  const std::shared_ptr<WorkerScratch> scratch_;
};

}  // namespace sluice
