// Running: a worker with queues and lanes of a test, for tests.
#pragma once

#include <gtest/gtest.h>
#include <sched.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "port/fake/lane_conformance.h"
#include "worker/worker.h"

namespace sluice {

inline std::map<std::string, std::uint64_t> counters(const Worker& worker) {
  struct Collect : CounterVisitor {
    std::map<std::string, std::uint64_t> values;
    void counter(std::string_view name, std::uint64_t value) override { values[std::string(name)] = value; }
  } collect;
  worker.visit(collect);
  return collect.values;
}

inline std::uint32_t first_cpu() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  EXPECT_EQ(::sched_getaffinity(0, sizeof allowed, &allowed), 0);
  std::uint32_t cpu = 0;
  while (cpu < CPU_SETSIZE && !CPU_ISSET(cpu, &allowed)) {
    ++cpu;
  }
  return cpu;
}

// A worker that leaves its tables empty whatever the test did.
class Running {
 public:
  explicit Running(WorkerOptions::Idle idle = WorkerOptions::Idle::kAdaptive)
      : worker_(Worker::start(
                    {.cpu = idle == WorkerOptions::Idle::kAwake ? std::optional(first_cpu()) : std::nullopt,
                     .idle = idle})
                    .value()) {}
  ~Running() {
    worker_->call([](Worker::Tables& tables) { tables = {}; });
  }
  Worker* operator->() const { return worker_.get(); }
  Worker& operator*() const { return *worker_; }

  void add_queue(PortId port, Lane& queue) {
    worker_->call([&](Worker::Tables& tables) {
      tables.queues.push_back(&queue);
      tables.by_port[raw(port)] = &queue;
    });
  }
  void add(PortId port, Lane& lane) {
    worker_->call([&](Worker::Tables& tables) {
      tables.lanes.emplace_back(port, &lane);
      tables.by_port[raw(port)] = &lane;
    });
  }
  // The turn in which the last frame was seen is over, and all of it counted: calls run between two turns.
  void end_turn() {
    worker_->call([](Worker::Tables&) {});
  }
  bool sleeps() {
    return wait_until([this] {
      auto now = counters(*worker_);
      return now["sleeps"] > now["wakeups"];
    });
  }

 private:
  std::unique_ptr<Worker> worker_;
};

}  // namespace sluice
