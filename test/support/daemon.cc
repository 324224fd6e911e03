#include "test/support/daemon.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/check.h"
#include "test/support/eventually.h"

namespace sluice::test {

namespace {

std::string read_file(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// Has it ended? It stays there to be waited for.
bool has_ended(pid_t pid) {
  siginfo_t info{};
  return ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) < 0 ||
         info.si_pid == pid;
}

}  // namespace

Daemon::~Daemon() = default;

void Daemon::write_config(const std::string& text) {
  std::string whole = fmt::format("[daemon]\ncontrol = \"{}\"\n{}", control(), text);
  for (std::size_t at = 0; (at = whole.find('@', at)) != std::string::npos; at += folder_->path().size()) {
    whole.replace(at, 1, folder_->path());
  }
  std::ofstream(config_path()) << whole;
}

Result<Process> Daemon::launch(const std::vector<std::string>& prefix, const std::string& log) {
  // The daemon does not outlive this process, whatever way that ends.
  std::vector<std::string> argv{
      "setpriv", "--pdeathsig", "KILL", "/bin/sh", "-c", "exec \"$@\" >>" + log + " 2>&1", "sh"};
  argv.insert(argv.end(), prefix.begin(), prefix.end());
  argv.insert(argv.end(), {SLUICED, "--config", config_path()});
  return ns_.spawn(argv);
}

Result<void> Daemon::start(const std::string& text) {
  write_config(text);
  return start();
}

Result<void> Daemon::start() {
  SLUICE_CHECK(process_.pid() <= 0, "it runs already");
  auto process = launch(prefix_, path("log"));
  SLUICE_TRY(process);
  process_ = std::move(*process);
  bool ready = eventually([&] { return has_ended(process_.pid()) || call("version"); });
  if (!ready || has_ended(process_.pid())) {
    kill();
    return fail("sluiced did not start: {}", log());
  }
  return {};
}

Finished Daemon::run_to_end(const std::string& text, const std::vector<std::string>& prefix) {
  write_config(text);
  const std::string its_log = path("log-of-one-that-ends");
  std::filesystem::remove(its_log);
  auto process = launch(prefix, its_log);
  SLUICE_CHECK(process, "{}", process.error().message);
  if (!eventually([&] { return has_ended(process->pid()); })) {
    process->signal(SIGKILL);
  }
  int status = process->wait().status;
  return {status, read_file(its_log)};
}

bool Daemon::running() const {
  return process_.pid() > 0 && !has_ended(process_.pid());
}

int Daemon::stop() {
  client_.reset();
  signal(SIGTERM);
  if (!eventually([&] { return !running(); })) {
    signal(SIGKILL);
  }
  return process_.wait().status;
}

void Daemon::kill() {
  client_.reset();
  signal(SIGKILL);
  process_.wait();
}

Result<nlohmann::json> Daemon::call(const std::string& method, const nlohmann::json& params) {
  if (!client_) {
    auto client = RpcClient::connect(control(), 120'000);
    SLUICE_TRY(client);
    client_.emplace(std::move(*client));
  }
  auto result = client_->call(method, params);
  if (!result && !running()) {
    client_.reset();
  }
  return result;
}

nlohmann::json Daemon::show(const std::string& what) {
  auto shown = call("show." + what);
  SLUICE_CHECK(shown, "show {}: {}; the daemon's log: {}", what, shown.error().message, log());
  return *shown;
}

nlohmann::json Daemon::port(const std::string& name) {
  for (const nlohmann::json& each : show("ports")) {
    if (each["name"] == name) {
      return each;
    }
  }
  return {};
}

std::uint64_t Daemon::counter(const std::string& flat_name) {
  nlohmann::json counters = show("counters");
  SLUICE_CHECK(counters.contains(flat_name), "there is no counter {}", flat_name);
  return counters[flat_name].get<std::uint64_t>();
}

std::string Daemon::log() const {
  return read_file(path("log"));
}

}  // namespace sluice::test
