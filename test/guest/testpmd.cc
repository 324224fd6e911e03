#include "test/guest/testpmd.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <regex>

namespace sluice::test {

namespace {

constexpr const char* kProgram = "/usr/bin/dpdk-testpmd";
constexpr const char* kPrompt = "testpmd> ";

std::uint64_t number_of(const std::string& text, const std::string& name) {
  std::smatch match;
  return std::regex_search(text, match, std::regex(name + R"(:\s*([0-9]+))")) ? std::stoull(match[1]) : 0;
}

}  // namespace

std::string vdev(const VirtioUser& device, std::uint32_t index) {
  return fmt::format(
      "net_virtio_user{},path={},mac={},queues={},queue_size={},server={},packed_vq={},in_order={},mrg_rxbuf="
      "{},"
      "vectorized={}",
      index, device.socket, device.mac, device.queues, device.queue_size, device.server ? 1 : 0,
      device.packed ? 1 : 0, device.in_order ? 1 : 0, device.mrg_rxbuf ? 1 : 0, device.vectorized ? 1 : 0);
}

std::string vhost_vdev(const std::string& socket, std::uint32_t index, std::uint32_t queues) {
  return fmt::format("net_vhost{},iface={},queues={}", index, socket, queues);
}

std::string Testpmd::why_none() {
  return std::filesystem::exists(kProgram) ? "" : "dpdk-testpmd is not installed (package dpdk-dev)";
}

Result<std::unique_ptr<Testpmd>> Testpmd::start(const TestpmdOptions& options) {
  if (std::string why = why_none(); !why.empty()) {
    return fail("{}", why);
  }
  std::vector<std::string> argv;
  if (options.ns != nullptr) {
    argv = {"nsenter", "--net=" + options.ns->path(), "--"};
  }
  // Logical core 0 has the prompt, the others forward.
  std::string cores = fmt::format("0@{}", options.cpu);
  for (std::uint32_t i = 1; i <= options.forwarders; ++i) {
    cores += fmt::format(",{}@{}", i, options.cpu);
  }
  for (const std::string& word :
       {std::string(kProgram), std::string("--lcores"), cores, std::string("--no-pci"),
        std::string("--no-telemetry"), fmt::format("--file-prefix=sluice-{}-{}", options.name, ::getpid()),
        std::string("-m"), std::to_string(options.memory_mb)}) {
    argv.push_back(word);
  }
  if (options.pages == TestpmdOptions::Pages::kHuge) {
    argv.insert(argv.end(), {"--in-memory", "--single-file-segments"});
  } else {
    argv.insert(argv.end(), {"--no-huge", "--no-shconf"});
  }
  for (const std::string& device : options.vdevs) {
    argv.insert(argv.end(), {"--vdev", device});
  }
  argv.insert(argv.end(), options.eal.begin(), options.eal.end());
  argv.insert(argv.end(),
              {"--", "-i", "--no-mlockall", "--forward-mode=" + options.mode,
               fmt::format("--nb-cores={}", options.forwarders), fmt::format("--rxq={}", options.queues),
               fmt::format("--txq={}", options.queues), fmt::format("--rxd={}", options.ring),
               fmt::format("--txd={}", options.ring), fmt::format("--total-num-mbufs={}", options.mbufs)});
  argv.insert(argv.end(), options.more.begin(), options.more.end());
  auto console = Console::start(argv);
  SLUICE_TRY(console);
  return std::unique_ptr<Testpmd>(new Testpmd(std::move(*console)));
}

Result<void> Testpmd::ready() {
  if (console_->wait_for(kPrompt, 0) == std::string::npos) {
    return fail("testpmd does not come to its prompt: {}", log());
  }
  return {};
}

std::string Testpmd::command(const std::string& line) {
  const std::size_t mark = console_->mark();
  console_->write(line + "\n");
  const std::size_t end = console_->wait_for(kPrompt, mark);
  return console_->since(mark).substr(0, end == std::string::npos ? end : end - mark);
}

Testpmd::Stats Testpmd::stats(std::uint32_t port) {
  const std::string text = command(fmt::format("show port stats {}", port));
  return {number_of(text, "RX-packets"), number_of(text, "TX-packets"), number_of(text, "RX-bytes"),
          number_of(text, "TX-bytes"),   number_of(text, "TX-errors"),  number_of(text, "Rx-pps")};
}

int Testpmd::quit() {
  console_->write("quit\n");
  return console_->wait();
}

}  // namespace sluice::test
