// Worker: one thread's loop over its queues and lanes.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "base/choices.h"
#include "base/ids.h"
#include "base/result.h"
#include "port/port.h"
#include "stats/counter.h"

namespace sluice {

class PortMeter;
class Switch;

struct WorkerOptions {
  WorkerId id{0};
  std::optional<std::uint32_t> cpu;  // pinned there; else the scheduler chooses
  using Idle = IdleMode;
  Idle idle = Idle::kAdaptive;
  std::uint32_t latency_us =
      50;  // 1 .. 1000: the most that the worker adds to a packet's delay to gather more of them
  // On its thread, before it gives up what a worker never needs (base/least_privilege.h).
  std::function<void()> prepare;
};

class Worker {
 public:
  static Result<std::unique_ptr<Worker>> start(const WorkerOptions& options);
  ~Worker();  // stops the thread; the tables must be empty by then

  // What the loop goes over. Only touched inside call().
  struct Tables {
    std::vector<Polled*> queues;  // of the wire, in the order of their turns
    std::vector<std::pair<PortId, Lane*>>
        lanes;  // ports' lanes, polled once per turn (NIC queues are not repeated here)
    std::array<Lane*, kMaxPorts> by_port{};  // where a packet for a port goes; null: drop_no_reader
    const Switch* switching = nullptr;  // where what lanes send goes; null: to the port that the lane set
  };
  // Control thread: runs `change` on the worker's thread between two bursts and waits for its end.
  // Wakes a sleeping worker. This is the only way in: nothing else of a worker is shared.
  void call(const std::function<void(Tables&)>& change);
  // Control thread: runs `change` there while all of `workers` stand between two bursts (pause.h). Returns
  // who did not come within `limit_ns`; then the change has not run. A worker that was late once is not
  // waited for again before it has been between two bursts.
  static std::optional<WorkerId> pause(std::span<Worker* const> workers, std::uint64_t limit_ns,
                                       const std::function<void()>& change);

  // Control thread: gives a port a new window (PortMeter::begin_window()), and tells a worker that sleeps.
  void begin_window(PortId port, std::uint64_t budget_us);

  WorkerId id() const;
  // turns packets naps sleeps wakeups ... and drop_no_reader
  void visit(CounterVisitor& visitor) const;
  std::uint64_t no_reader(PortId port) const;
  // What each port costs this worker, and which are not served for now (port_meter.h).
  PortMeter& meter();
  const PortMeter& meter() const;
  std::uint64_t turns() const;  // any thread

 private:
  explicit Worker(const WorkerOptions& options);
  Result<void> prepare_thread();  // on the worker's thread

  struct Parts;  // mailbox and loop: worker.cc
  bool is_late();

  const WorkerOptions options_;
  std::unique_ptr<Parts> parts_;
  std::thread thread_;
};

}  // namespace sluice
