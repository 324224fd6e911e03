#include "test/demo/daemon.h"

#include <signal.h>

#include <optional>

#include "control/rpc/api.h"
#include "test/demo/child.h"
#include "test/demo/measure.h"

namespace sluice::demo {

Result<Daemon> Daemon::start(const test::NetNs& ns, const std::string& config_path,
                             const std::string& control_socket) {
  auto process = ns.spawn(leashed({SLUICED, "--config", config_path}));
  SLUICE_TRY(process);
  std::optional<RpcClient> client;
  const bool answers = wait_until(2 * kPatience, [&] {
    auto connected = RpcClient::connect(control_socket);
    if (connected && connected->call(std::string(api::kVersion))) {
      client = std::move(*connected);
    }
    return client.has_value();
  });
  if (!answers) {
    process->signal(SIGKILL);
    return fail("sluiced did not start: {}", process->wait().output);
  }
  return Daemon(std::move(*process), std::move(*client));
}

void Daemon::kill() {
  process_.signal(SIGKILL);
  process_.wait();
}

test::Finished Daemon::stop() {
  process_.signal(SIGTERM);
  return process_.wait();
}

Result<nlohmann::json> Daemon::counters() {
  return client_.call(std::string(api::kShowCounters));
}

Result<nlohmann::json> Daemon::port(const std::string& name) {
  auto ports = client_.call(std::string(api::kShowPorts));
  SLUICE_TRY(ports);
  for (const nlohmann::json& port : *ports) {
    if (port["name"] == name) {
      return port;
    }
  }
  return fail("the daemon has no port {}", name);
}

Result<nlohmann::json> Daemon::pages_in_flight() {
  auto pools = client_.call(std::string(api::kShowPools));
  SLUICE_TRY(pools);
  nlohmann::json pages = nlohmann::json::object();
  for (const nlohmann::json& pool : *pools) {
    pages[pool["name"].get<std::string>()] = pool["counters"]["inflight"];
  }
  return pages;
}

}  // namespace sluice::demo
