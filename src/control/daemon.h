// The daemon around the engine: start, serve, reload, end. cmd/sluiced.cc hands it the engine; tests hand it
// a model.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"
#include "control/config/config.h"
#include "control/config/control_target.h"

namespace sluice {

struct DaemonOptions {
  std::string config_path;
  std::string log_level;  // empty: as the config says
};

using MakeTarget = std::function<Result<std::unique_ptr<ControlTarget>>(const Config& config, EventLoop& loop,
                                                                        const std::string& config_path)>;

// Until SIGTERM or SIGINT; an error is why it could not start. SIGHUP reloads.
Result<void> run_daemon(const DaemonOptions& options, const MakeTarget& make_target);

// What systemd is told (sd_notify(3)); nothing happens when it did not start us.
class ServiceManager {
 public:
  // Answers the watchdog from the loop while `healthy`: a loop that hangs, or a worker, is noticed.
  ServiceManager(EventLoop& loop, std::function<bool()> healthy);
  ~ServiceManager();
  void ready(const std::string& status);
  void reloading();
  void stopping();

 private:
  EventLoop& loop_;
  EventLoop::TimerId watchdog_ = 0;
};

}  // namespace sluice
