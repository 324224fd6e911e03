#include "control/daemon.h"

#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "base/clock.h"
#include "base/log.h"
#include "control/rpc/serve.h"
#include "control/rpc/server.h"

namespace sluice {

namespace {

sigset_t handled_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (int signal : {SIGHUP, SIGINT, SIGTERM}) {
    ::sigaddset(&set, signal);
  }
  return set;
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
  auto config = load_config(options.config_path);
  SLUICE_TRY(config);
  log::start("sluiced", options.log_level.empty() ? config->daemon.log : options.log_level);
  for (const std::string& warning : config_warnings(*config)) {
    log::warn("{}: {}", options.config_path, warning);
  }

  raise_descriptor_limit();
  Signals::block();
  auto loop = EventLoop::create();
  SLUICE_TRY(loop);
  // The socket before the engine: a second daemon ends here, before it touches a NIC. Clients wait until the
  // loop runs.
  RpcMethods methods;
  auto server = RpcServer::create({.path = config->daemon.control, .group = config->daemon.control_group},
                                  **loop, methods);
  SLUICE_TRY(server);
  auto target = make_target(*config, **loop, options.config_path);
  SLUICE_TRY(target);
  serve(methods, **target, options.config_path);

  ServiceManager manager(**loop, [&target] { return (*target)->healthy(); });
  auto signals = Signals::create(**loop, [&](int signal) {
    if (signal == SIGHUP) {
      reload_on_signal(**target, options.config_path, manager);
    } else {
      log::info("signal {}: ending", signal);
      (*loop)->stop();
    }
  });
  SLUICE_TRY(signals);

  log::info("serving {} on {}", summary(**target), config->daemon.control);
  manager.ready(summary(**target));
  (*loop)->run();
  manager.stopping();
  return {};
}

void Signals::block() {
  sigset_t set = handled_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

Result<std::unique_ptr<Signals>> Signals::create(EventLoop& loop, std::function<void(int)> callback) {
  std::unique_ptr<Signals> signals(new Signals(loop, std::move(callback)));
  sigset_t set = handled_signals();
  signals->fd_.reset(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals->fd_) {
    return fail_errno(errno, "cannot make a signal descriptor");
  }
  SLUICE_TRY(
      loop.add(signals->fd_.get(), EPOLLIN, [self = signals.get()](std::uint32_t) { self->read_all(); }));
  return signals;
}

Signals::~Signals() {
  if (fd_) {
    loop_.remove(fd_.get());
  }
}

void Signals::read_all() {
  signalfd_siginfo info{};
  while (::read(fd_.get(), &info, sizeof(info)) == sizeof(info)) {
    callback_(static_cast<int>(info.ssi_signo));
  }
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
