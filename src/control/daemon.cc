#include "control/daemon.h"

#include <sys/resource.h>
#include <systemd/sd-daemon.h>

#include <cerrno>
#include <csignal>

#include "base/clock.h"
#include "base/log.h"
#include "control/rpc/serve.h"
#include "control/rpc/server.h"

namespace sluice {

namespace {

// Before the first thread is made, for threads inherit what is blocked: the loop takes these, and no handler
// ever runs.
void block_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (int signal : {SIGHUP, SIGINT, SIGTERM}) {
    ::sigaddset(&set, signal);
  }
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

std::string summary(const ControlTarget& target) {
  const Config& config = target.current();
  const std::string not_open = target.not_open();
  return fmt::format("{} NICs, {} ports, {} rules{}{}", config.nics.size(), config.ports.size(),
                     config.rules.size(), not_open.empty() ? "" : "; not open: ", not_open);
}

void reload_on_signal(ControlTarget& target, const std::string& config_path, ServiceManager& manager) {
  manager.reloading();
  if (auto done = reload(target, config_path); done) {
    manager.ready(summary(target));
  } else {
    log::error("reload: {}", done.error().message);
    manager.ready("the last reload failed: " + done.error().message);
  }
}

}  // namespace

// Each port needs descriptors, and the soft limit is 1024 nearly everywhere, for the sake of select(2).
static void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
}

Result<void> run_daemon(const DaemonOptions& options, const MakeTarget& make_target) {
  auto config = SLUICE_TRY(load_config(options.config_path));
  log::start("sluiced", options.log_level.empty() ? config.daemon.log : options.log_level);
  for (const std::string& warning : config_warnings(config)) {
    log::warn("{}: {}", options.config_path, warning);
  }

  raise_descriptor_limit();
  block_signals();
  const auto loop = SLUICE_TRY(EventLoop::create());
  // The socket before the engine: a second daemon ends here, before it touches a NIC. Clients wait until the
  // loop runs.
  RpcMethods methods;
  const auto server = SLUICE_TRY(RpcServer::create(
      {.path = config.daemon.control, .group = config.daemon.control_group}, *loop, methods));
  const auto target = SLUICE_TRY(make_target(config, *loop, options.config_path));
  serve(methods, *target, options.config_path);

  ServiceManager manager(*loop, [&target] { return target->healthy(); });
  SLUICE_TRY(loop->add_signal(SIGHUP, [&] { reload_on_signal(*target, options.config_path, manager); }));
  for (const int signal : {SIGINT, SIGTERM}) {
    SLUICE_TRY(loop->add_signal(signal, [&loop, signal] {
      log::info("signal {}: ending", signal);
      loop->stop();
    }));
  }

  log::info("serving {} on {}", summary(*target), config.daemon.control);
  manager.ready(summary(*target));
  loop->run();
  manager.stopping();
  return {};
}

ServiceManager::ServiceManager(EventLoop& loop, std::function<bool()> healthy) : loop_(loop) {
  std::uint64_t timeout_us = 0;
  if (::sd_watchdog_enabled(0, &timeout_us) > 0 && timeout_us > 0) {
    watchdog_ = loop_.every(timeout_us * 1000 / 2, [healthy = std::move(healthy)] {
      if (healthy()) {
        ::sd_notify(0, "WATCHDOG=1");
      }
    });
  }
}

ServiceManager::~ServiceManager() {
  if (watchdog_ != 0) {
    loop_.cancel(watchdog_);
  }
}

void ServiceManager::ready(const std::string& status) {
  std::string line = status.substr(0, status.find('\n'));
  ::sd_notify(0, ("READY=1\nSTATUS=" + line).c_str());
}

// Type=notify-reload wants the time, so as to tell this reload from another.
void ServiceManager::reloading() {
  ::sd_notify(0, fmt::format("RELOADING=1\nMONOTONIC_USEC={}", now_ns() / 1000).c_str());
}

void ServiceManager::stopping() {
  ::sd_notify(0, "STOPPING=1");
}

}  // namespace sluice
