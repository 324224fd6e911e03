// Daemon: the real sluiced in the NIC's namespace, and what it says of itself.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"
#include "control/rpc/client.h"
#include "test/support/net_ns.h"
#include "test/support/process.h"

namespace sluice::demo {

class Daemon {
 public:
  // Returns when it answers its control socket: then NICs, rules and ports are set up.
  static Result<Daemon> start(const test::NetNs& ns, const std::string& config_path,
                              const std::string& control_socket);

  // kill -9, and waits until the process is gone.
  void kill();
  // Ends it as an operator does; its exit status and all it has logged.
  test::Finished stop();

  // What `sluicectl show counters --json` prints.
  Result<nlohmann::json> counters();
  // One entry of `sluicectl show ports --json`.
  Result<nlohmann::json> port(const std::string& name);
  // Pages in flight by pool, of `sluicectl show pools --json`: those in a NIC's rings, and those that were
  // lent.
  Result<nlohmann::json> pages_in_flight();

 private:
  Daemon(test::Process process, RpcClient client)
      : process_(std::move(process)), client_(std::move(client)) {}
  test::Process process_;
  RpcClient client_;
};

}  // namespace sluice::demo
