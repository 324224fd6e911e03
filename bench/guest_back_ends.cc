#include "bench/guest_back_ends.h"

#include <chrono>
#include <filesystem>
#include <thread>

#include "bench/measure.h"
#include "test/support/daemon.h"
#include "test/support/eventually.h"

namespace sluice::bench {

namespace {

class Sluice final : public BackEnd {
 public:
  explicit Sluice(const test::NetNs& ns) : daemon(ns) {}
  ~Sluice() override {
    if (daemon.running()) {
      daemon.stop();
    }
  }
  std::string socket(int guest) const override { return daemon.path(fmt::format("vm{}.sock", guest)); }
  std::string log() const override { return daemon.log(); }
  pid_t pid() const override { return daemon.pid(); }
  std::string losses() override {
    std::string found;
    const nlohmann::json counters = daemon.show("counters");
    for (const auto& [name, value] : counters.items()) {
      if ((name.find("drop") != std::string::npos || name.find("fault") != std::string::npos) && value != 0) {
        found += fmt::format("{} {} ", name, value.dump());
      }
    }
    return found;
  }

  test::Daemon daemon;
};

class NetVhost final : public BackEnd {
 public:
  ~NetVhost() override {
    if (testpmd) {
      testpmd->quit();
    }
  }
  std::string socket(int guest) const override { return folder / fmt::format("vm{}.sock", guest); }
  std::string log() const override { return testpmd->log(); }
  pid_t pid() const override { return testpmd->pid(); }

  test::TempFolder folder;
  std::unique_ptr<test::Testpmd> testpmd;
};

}  // namespace

Result<std::unique_ptr<BackEnd>> start_sluice(const BackEndOptions& options) {
  auto sluice = std::make_unique<Sluice>(*options.ns);
  std::string config = "log = \"warning\"\n";
  if (!options.default_settings) {
    config += fmt::format("workers = [ {{ cpu = {}, idle = \"{}\" }} ]\n", kReceiverCpu, options.idle);
  }
  if (options.job == Job::kFromNic) {
    config += "[nic.nic0]\n";
  }
  for (int guest = 0; guest < (options.job == Job::kPair ? 2 : 1); ++guest) {
    config += fmt::format("[port.vm{0}]\ntype = \"guest\"\nsocket = \"@/vm{0}.sock\"\nmac = \"{1}\"\n", guest,
                          kGuestMacs[guest]);
  }
  if (options.job == Job::kLoop) {
    config += "[[rule]]\nport = \"vm0\"\nmatch = \"\"\nto = \"vm0\"\n";
  }
  if (auto started = sluice->daemon.start(config); !started) {
    return std::unexpected(started.error());
  }
  return sluice;
}

Result<std::unique_ptr<BackEnd>> start_net_vhost(const BackEndOptions& options) {
  auto net_vhost = std::make_unique<NetVhost>();
  test::TestpmdOptions testpmd{.name = "back",
                               .cpu = kReceiverCpu,
                               .pages = options.pages,
                               .memory_mb = 192,
                               .mbufs = 65535,
                               .ns = options.ns};
  if (options.job == Job::kFromNic) {
    testpmd.vdevs.push_back("net_af_xdp0,iface=nic0,start_queue=0,queue_count=1");
    testpmd.ring = 2048;
  }
  for (int guest = 0; guest < (options.job == Job::kPair ? 2 : 1); ++guest) {
    testpmd.vdevs.push_back(test::vhost_vdev(net_vhost->socket(guest), static_cast<std::uint32_t>(guest)));
  }
  auto started = test::Testpmd::start(testpmd);
  SLUICE_TRY(started);
  net_vhost->testpmd = std::move(*started);
  if (auto ready = net_vhost->testpmd->ready(); !ready) {
    return std::unexpected(ready.error());
  }
  net_vhost->testpmd->command("start");
  return net_vhost;
}

}  // namespace sluice::bench
