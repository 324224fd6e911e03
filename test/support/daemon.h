// Daemon: the real sluiced in a network namespace. Its config, control socket, log and the sockets of its
// ports stand in a folder of its own.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "control/rpc/client.h"
#include "test/support/net_ns.h"
#include "test/support/process.h"
#include "test/support/temp_folder.h"

namespace sluice::test {

class Daemon {
 public:
  explicit Daemon(const NetNs& ns, std::shared_ptr<TempFolder> folder = std::make_shared<TempFolder>())
      : ns_(ns), folder_(std::move(folder)) {}
  ~Daemon();  // kill -9, if it still runs
  Daemon(const Daemon&) = delete;

  // The text stands behind `[daemon]` and its `control`; '@' is the folder. As a file, for the next start or
  // reload.
  void write_config(const std::string& text);
  // The command that starts it, from here on.
  void run_by(std::vector<std::string> prefix) { prefix_ = std::move(prefix); }
  // Returns when the control socket answers. An error is what the daemon said.
  Result<void> start(const std::string& text);
  Result<void> start();
  // A daemon that is expected to end by itself: its status and its words. `prefix` is the command that starts
  // it.
  Finished run_to_end(const std::string& text, const std::vector<std::string>& prefix = {});

  bool running() const;
  pid_t pid() const { return process_.pid(); }
  void signal(int number) const { process_.signal(number); }
  int stop();   // SIGTERM; the exit status, 128 + signal when one ended it
  void kill();  // kill -9, and reaped

  Result<nlohmann::json> call(const std::string& method,
                              const nlohmann::json& params = nlohmann::json::object());
  nlohmann::json show(const std::string& what);
  nlohmann::json port(const std::string& name);         // of `show ports`; null: there is none
  std::uint64_t counter(const std::string& flat_name);  // of `show counters`; CHECKs that there is one

  std::string log() const;
  std::string path(const std::string& name) const { return *folder_ / name; }
  std::string control() const { return path("control.sock"); }
  std::string config_path() const { return path("sluice.toml"); }

 private:
  Result<Process> launch(const std::vector<std::string>& prefix, const std::string& log);

  const NetNs& ns_;
  std::shared_ptr<TempFolder> folder_;
  std::vector<std::string> prefix_;
  Process process_;
  std::optional<RpcClient> client_;
};

}  // namespace sluice::test
