// Workers: the threads that move packets, all together, as the control side changes and reads them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "control/engine/stalls.h"
#include "control/port_types/port_type.h"
#include "port/port_services.h"
#include "worker/worker.h"

namespace sluice {

class Switch;

// Control thread.
class Workers final : public LaneTable, public PortCosts {
 public:
  static Result<std::unique_ptr<Workers>> start(const std::vector<WorkerConfig>& configs,
                                                const PortTypes& types);

  std::span<const std::unique_ptr<Worker>> all() const { return workers_; }
  std::size_t count() const { return workers_.size(); }

  void install_lane(PortId port, WorkerId worker, Lane* lane) override;
  void remove_lane(PortId port, WorkerId worker) override;
  bool pause(std::span<const WorkerId> workers, Patience patience,
             const std::function<void()>& change) override;

  // Null: what lanes send goes where they say. The former switch is nobody's when this returns.
  void set_switch(const Switch* switching);
  // Each has stood between two bursts when this returns.
  void pass();

  std::uint64_t charged_us(PortId port) const override;
  void begin_window(PortId port, std::uint64_t budget_us) override;

  std::vector<std::uint64_t> turns() const;
  // Every worker has emptied its rings since turns() said `begun`. Wakes one that sleeps.
  bool have_emptied_rings(const std::vector<std::uint64_t>& begun);

 private:
  Workers() = default;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace sluice
