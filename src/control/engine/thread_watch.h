// ThreadWatch: a small thread that looks at the workers twice a second and writes to the journal which of
// them is stuck, and for which port: also while the control thread waits for that worker.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/ids.h"
#include "control/engine/stuck_watch.h"
#include "worker/worker.h"

namespace sluice {

class ThreadWatch {
 public:
  // The workers outlive it.
  explicit ThreadWatch(std::vector<const Worker*> workers);
  ~ThreadWatch();

  // Any thread: no worker is stuck.
  bool healthy() const { return stuck_.load() == 0; }
  // Control thread: how the journal calls a port.
  void name_port(PortId port, const std::string& name);

 private:
  void run();
  void look(std::size_t worker, std::uint64_t now_ns);
  std::string place_name(std::uint16_t place);

  const std::vector<const Worker*> workers_;
  std::vector<StuckWatch> watches_;  // the watching thread's
  std::atomic<std::uint32_t> stuck_{0};
  std::mutex mutex_;
  std::condition_variable stop_changed_;
  bool stop_ = false;
  std::map<std::uint16_t, std::string> names_;
  std::thread thread_;
};

}  // namespace sluice
