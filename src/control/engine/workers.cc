#include "control/engine/workers.h"

#include "base/check.h"
#include "control/port_types/options_of.h"
#include "worker/pause.h"
#include "worker/port_meter.h"

namespace sluice {

namespace {

// How long the control thread waits for a worker before it goes on with other ports' work.
constexpr std::uint64_t kPausePatienceNs = 100'000'000;
// A worker takes kBurst from each queue in a turn, so after so many a full ring has been emptied once.
constexpr std::uint64_t kTurnsPerRing = 32768 / kBurst + 1;
// How long a worker that slept may take for a turn that it is asked for, before that is put off.
constexpr std::uint64_t kNudgeNs = 1'000'000;

}  // namespace

Result<std::unique_ptr<Workers>> Workers::start(const std::vector<WorkerConfig>& configs,
                                                const PortTypes& types) {
  std::unique_ptr<Workers> workers(new Workers());
  for (const WorkerConfig& config : configs) {
    WorkerOptions options = worker_options(config, static_cast<WorkerId>(workers->workers_.size()));
    options.prepare = [&types, id = options.id] {
      for (const auto& [word, type] : types) {
        type->prepare_worker(id);
      }
    };
    workers->workers_.push_back(SLUICE_TRY(Worker::start(options)));
  }
  SLUICE_CHECK(!workers->workers_.empty(), "a config has at least one worker");
  return workers;
}

void Workers::install_lane(PortId port, WorkerId worker, Lane* lane) {
  workers_[raw(worker)]->call([port, lane](Worker::Tables& tables) {
    tables.by_port[raw(port)] = lane;
    tables.lanes.emplace_back(port, lane);
  });
}

void Workers::remove_lane(PortId port, WorkerId worker) {
  workers_[raw(worker)]->call([port](Worker::Tables& tables) {
    tables.by_port[raw(port)] = nullptr;
    std::erase_if(tables.lanes, [port](const auto& entry) { return entry.first == port; });
  });
}

bool Workers::pause(std::span<const WorkerId> workers, Patience patience,
                    const std::function<void()>& change) {
  std::vector<Worker*> concerned;
  for (WorkerId worker : workers) {
    concerned.push_back(workers_[raw(worker)].get());
  }
  const std::uint64_t limit_ns = patience == Patience::kForEver ? kPauseForEver : kPausePatienceNs;
  const auto late = Worker::pause(concerned, limit_ns, change);
  return !late;
}

void Workers::set_switch(const Switch* switching) {
  for (const auto& worker : workers_) {
    worker->call([switching](Worker::Tables& tables) { tables.switching = switching; });
  }
}

void Workers::pass() {
  for (const auto& worker : workers_) {
    worker->call([](Worker::Tables&) {});
  }
}

std::uint64_t Workers::charged_us(PortId port) const {
  std::uint64_t sum = 0;
  for (const auto& worker : workers_) {
    sum += worker->meter().charged_us(port);
  }
  return sum;
}

void Workers::begin_window(PortId port, std::uint64_t budget_us) {
  for (const auto& worker : workers_) {
    worker->begin_window(port, budget_us);
  }
}

std::vector<std::uint64_t> Workers::turns() const {
  std::vector<std::uint64_t> turns;
  for (const auto& worker : workers_) {
    turns.push_back(worker->turns());
  }
  return turns;
}

// A worker rests only after a turn that found no full burst, so all its rings were empty then. One that works
// on and on has emptied the largest ring after so many turns.
bool Workers::have_emptied_rings(const std::vector<std::uint64_t>& begun) {
  for (std::size_t i = 0; i < workers_.size(); ++i) {
    Worker* const worker = workers_[i].get();
    if (worker->turns() == begun[i]) {
      Worker::pause({&worker, 1}, kNudgeNs, [] {});  // it may sleep
    }
    const std::uint64_t turns = worker->turns() - begun[i];
    const bool rests = turns > 0 && worker->meter().place() == PortMeter::kResting;
    if (!rests && turns < kTurnsPerRing) {
      return false;
    }
  }
  return true;
}

}  // namespace sluice
