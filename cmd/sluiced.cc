// sluiced: the daemon. What it does in which order: run_daemon() of src/control/daemon.cc.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <string>

#include "base/check.h"
#include "base/closer.h"
#include "base/least_privilege.h"
#include "base/log.h"
#include "control/check_mode.h"
#include "control/daemon.h"
#include "control/engine/engine.h"
#include "control/port_types/app_type.h"
#include "control/port_types/guest_type.h"
#include "control/port_types/tap_type.h"
#include "door/door_keeper.h"

namespace {

using namespace sluice;

enum class Confine : std::uint8_t { kAuto, kOff };

// Before the first thread, after all that only the start needs: the config, the control socket with its
// group.
Result<void> give_up_privileges(Confine confine) {
  if (confine == Confine::kOff) {
    log::warn("not confined (--confine off): every thread keeps all privileges");
    return {};
  }
  SLUICE_TRY(confine_process());
  Closer::of_process().begin_with([] {
    auto confined = confine_thread(ThreadKind::kCloser);
    SLUICE_CHECK(confined, "{}", confined.error().message);
  });
  return {};
}

// The types of ports: what [port.NAME] says for `type`, and who makes them.
PortTypes port_types(const Config& config, EventLoop& loop, DoorKeeper& doors) {
  PortTypes types;
  types["app"] = std::make_unique<AppType>(loop, doors);
  types["guest"] = std::make_unique<GuestType>(loop, doors, config.daemon.guest_memory_bytes);
  types["tap"] = std::make_unique<TapType>();
  return types;
}

Result<std::unique_ptr<ControlTarget>> make_engine(const Config& config, EventLoop& loop, DoorKeeper& doors,
                                                   Confine confine) {
  SLUICE_TRY(give_up_privileges(confine));
  doors.watch_on(loop);
  auto engine = SLUICE_TRY(
      Engine::create(config, {.loop = &loop, .types = port_types(config, loop, doors), .doors = &doors}));
  return std::unique_ptr<ControlTarget>(std::move(engine));
}

Result<void> serve(const DaemonOptions& options, Confine confine) {
  // First of all: the zygote inherits what there is.
  auto doors = SLUICE_TRY(DoorKeeper::start(DoorKeeper::default_program()));
  return run_daemon(options, [&](const Config& config, EventLoop& loop, const std::string&) {
    return make_engine(config, loop, *doors, confine);
  });
}

int run(int argc, char** argv) {
  CLI::App app("Delivers packets of a NIC that Linux goes on using to programs, by zero copy.", "sluiced");
  DaemonOptions options{.config_path = "/etc/sluice/sluice.toml", .log_level = ""};
  std::string check;
  Confine confine = Confine::kAuto;
  app.add_option("--config", options.config_path, "the config file")->capture_default_str();
  app.add_option("--check", check, "say whether the daemon would accept this file, and end");
  app.add_option("--log", options.log_level, "instead of the config's level")
      ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error", "off"}));
  app.add_option("--confine", confine, "off: keep all privileges, and allow every system call")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, Confine>{{"auto", Confine::kAuto}, {"off", Confine::kOff}}));
  app.set_version_flag("--version", SLUICE_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (!check.empty()) {
    return check_config_file(check, stdout, stderr);
  }
  if (auto ended = serve(options, confine); !ended) {
    fmt::print(stderr, "sluiced: {}\n", ended.error().message);
    return 1;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {  // out of memory at start, most likely
    std::fprintf(stderr, "sluiced: %s\n", error.what());
    return 1;
  }
}
