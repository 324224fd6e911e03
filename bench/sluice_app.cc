// Sluice as its users run it: sluiced with one worker, one app on libsluice, on one core together.
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "bench/receivers.h"
#include "control/rpc/client.h"
#include "sluice/sluice.hpp"
#include "test/support/process.h"

namespace sluice::bench {

namespace {

// {0} directory, {1} netdev, {2} UDP port.
constexpr const char* kConfig = R"(
[daemon]
control = "{0}/control.sock"
log = "warning"
{tuned_worker}
[nic.{1}]
queues = "all"
{tuned_nic}
[port.app]
type = "app"
socket = "{0}/app.sock"
{tuned_app}
{owned}
[[rule]]
match = "ip_proto udp dst_port {2}"
to = "app"
priority = 100
)";

std::string config_of(const std::string& directory, const std::string& netdev,
                      const SluiceAppOptions& options) {
  std::string worker, nic, app, owned;
  if (options.settings == Settings::kTuned) {
    worker = fmt::format("workers = [ {{ cpu = {}, idle = \"{}\" }} ]", kReceiverCpu, worker_idle);
    nic = fmt::format("ring = {}", ring_entries);
    app = fmt::format("pages = {}\nring = {}", 2 * ring_entries, ring_entries);
  }
  if (options.use == QueueUse::kOwned) {
    owned = fmt::format("queues = [\"{}:0\"]", netdev);
  }
  return fmt::format(kConfig, directory, netdev, kUdpPort, fmt::arg("tuned_worker", worker),
                     fmt::arg("tuned_nic", nic), fmt::arg("tuned_app", app), fmt::arg("owned", owned)) +
         options.extra_rules;
}

class App final : public SluiceApp {
 public:
  App(std::string directory, test::Process daemon, Port port)
      : directory_(std::move(directory)), daemon_(std::move(daemon)), port_(std::move(port)) {}
  ~App() override {
    port_.reset();
    daemon_.signal(SIGTERM);
    daemon_.wait();
    std::filesystem::remove_all(directory_);
  }

  std::uint64_t turn() override {
    std::size_t count = port_->receive_for(packets_, std::chrono::milliseconds(50));
    for (std::size_t i = 0; i < count; ++i) {
      touched_ = touched_ + std::to_integer<std::uint64_t>(packets_[i].bytes()[0]);
    }
    Port::release(std::span(packets_).first(count));
    return count;
  }

  nlohmann::json counters() override {
    auto client = RpcClient::connect(directory_ + "/control.sock");
    if (!client) {
      return nlohmann::json::object();
    }
    auto answer = client->call("show.counters", nlohmann::json::object());
    return answer ? *answer : nlohmann::json::object();
  }
  int daemon_pid() const override { return daemon_.pid(); }

 private:
  using Port = sluice::Port;
  std::string directory_;
  test::Process daemon_;
  std::optional<Port> port_;
  std::array<Packet, 64> packets_;
  volatile std::uint64_t touched_ = 0;
};

}  // namespace

Result<std::unique_ptr<SluiceApp>> SluiceApp::open(const std::string& daemon, const std::string& netdev,
                                                   const test::NetNs& ns, const SluiceAppOptions& options) {
  char name[] = "/tmp/sluice-bench-XXXXXX";
  if (::mkdtemp(name) == nullptr) {
    return fail_errno(errno, "cannot make a directory in /tmp");
  }
  std::string directory = name;
  std::string file = directory + "/sluice.toml";
  std::ofstream(file) << config_of(directory, netdev, options);
  // To a file: what it says of 500 ports that nobody uses is more than a pipe takes.
  const std::string log = directory + "/log";
  auto process = ns.spawn({"/bin/sh", "-c", "exec \"$0\" --config \"$1\" >\"$2\" 2>&1", daemon, file, log});
  if (!process) {
    return std::unexpected(process.error());
  }
  // The daemon answers its control socket when everything is set up.
  for (int tries = 0;; ++tries) {
    auto client = RpcClient::connect(directory + "/control.sock");
    if (client && client->call("version", nlohmann::json::object())) {
      break;
    }
    if (tries == 200) {
      process->signal(SIGKILL);
      process->wait();
      std::ostringstream said;
      said << std::ifstream(log).rdbuf();
      return fail("sluiced did not start: {}", said.str());
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(25));  // lint: allow(sleep): 200 tries
  }
  auto port = Port::attach(directory + "/app.sock");
  if (!port) {
    return fail("{}", port.error().message);
  }
  return std::make_unique<App>(directory, std::move(*process), std::move(*port));
}

}  // namespace sluice::bench
