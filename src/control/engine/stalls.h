// Stalls: the account of what ports cost the workers: who has used up a window's budget, and who is cut off
// (stall_policy.h).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "base/event_loop.h"
#include "base/ids.h"
#include "control/engine/stall_policy.h"

namespace sluice {

// What the workers know of it.
class PortCosts {
 public:
  virtual ~PortCosts() = default;
  // Charged by all workers since they began.
  virtual std::uint64_t charged_us(PortId port) const = 0;
  // From here on each serves the port until it has cost that worker so much; 0: whatever it costs.
  virtual void begin_window(PortId port, std::uint64_t budget_us) = 0;
};

// Control thread.
class Stalls {
 public:
  explicit Stalls(PortCosts& costs) : costs_(costs) {}
  ~Stalls();

  struct Limits {
    std::uint32_t budget_us = 0;  // in each window; 0: the port is not watched
    std::uint32_t window_ms = 1000;
  };
  // `cut_off` gets how long nobody is to be let in.
  void watch(const std::string& name, PortId port, const Limits& limits,
             std::function<void(std::uint64_t)> cut_off);
  void forget(const std::string& name);
  // Of a port that is not watched: served.
  StallPolicy::State state(const std::string& name) const;

  // Looks whenever a window ends; calls `each_time` then.
  void begin(EventLoop& loop, std::function<void()> each_time);
  // Ends the windows that are over; returns when to look again.
  std::uint64_t look(std::uint64_t now_ns);

 private:
  struct Watched {
    PortId port{0};
    Limits limits;
    std::function<void(std::uint64_t)> cut_off;
    StallPolicy policy;
    std::uint64_t charged_us = 0;  // by all workers, at the end of the last window
    std::uint64_t window_end_ns = 0;
  };
  void end_window(const std::string& name, Watched& port);
  void look_in(std::uint64_t delay_ns);

  PortCosts& costs_;
  std::map<std::string, Watched> ports_;
  EventLoop* loop_ = nullptr;
  std::function<void()> each_time_;
  EventLoop::TimerId timer_ = 0;
};

}  // namespace sluice
