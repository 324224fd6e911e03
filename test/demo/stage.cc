#include "test/demo/stage.h"

#include <bpf/libbpf.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "test/demo/measure.h"
#include "test/demo/narrate.h"

namespace sluice::demo {

namespace {

constexpr std::uint16_t kOwnedUdpPort = 5001, kSharedUdpPort = 5002;

// Rings for 16 ms at the full rate: so long may the scheduler, or the host of a virtual machine, let a
// process of this core wait.
constexpr const char* kConfig = R"(log = "error"
workers = [ {{ cpu = {cpu}, idle = "awake" }} ]

[nic.{nic}]
ring = 32768

[port.owned]
type = "app"
socket = "@/owned.sock"
queues = ["{queue}"]
pages = 65536
ring = 32768

[port.shared]
type = "app"
socket = "@/shared.sock"
pages = 8192

[[rule]]
match = "ip_proto udp dst_port {owned_port}"
to = "owned"

[[rule]]
match = "ip_proto udp dst_port {shared_port}"
to = "shared"
)";

}  // namespace

std::uint64_t promised_rate() {
  constexpr std::uint64_t kPromisedRate = 2'000'000;
  const char* text = std::getenv("SLUICE_DEMO_RATE");
  const std::uint64_t asked = text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
  return asked == 0 ? kPromisedRate : std::min(asked, kPromisedRate);
}

Layout Layout::of_this_machine() {
  cpu_set_t set;
  CPU_ZERO(&set);
  ::sched_getaffinity(0, sizeof(set), &set);
  std::vector<unsigned> cpus;
  for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) {
      cpus.push_back(cpu);
    }
  }
  Layout layout;
  layout.generator_cpu = cpus.at(0);
  layout.receiver_cpu = cpus.size() > 1 ? cpus[1] : cpus[0];
  layout.packets_per_second = layout.one_cpu() ? kOneCpuRate : promised_rate();
  while (!layout.one_cpu() && layout.generator_cpu % layout.queues == layout.receiver_cpu % layout.queues) {
    ++layout.queues;
  }
  return layout;
}

Result<std::unique_ptr<Stage>> Stage::create(std::shared_ptr<test::TempFolder> folder) {
  auto nic_ns = test::NetNs::create();
  SLUICE_TRY(nic_ns);
  auto wire_ns = test::NetNs::create();
  SLUICE_TRY(wire_ns);
  std::unique_ptr<Stage> stage(new Stage(std::move(*nic_ns), std::move(*wire_ns), std::move(folder)));
  auto pair = test::VethPair::create(stage->nic_ns_, stage->wire_ns_, {.queues = stage->layout_.queues});
  SLUICE_TRY(pair);
  stage->pair_ = std::move(*pair);
  SLUICE_TRY(stage->make_flows());
  stage->write_config();
  SLUICE_TRY(stage->start_daemon());
  return stage;
}

std::string Stage::owned_queue() const {
  return fmt::format("{}:{}", pair_.options().nic_name, layout_.generator_cpu % layout_.queues);
}

void Stage::write_config() {
  daemon_.write_config(fmt::format(fmt::runtime(kConfig), fmt::arg("cpu", layout_.receiver_cpu),
                                   fmt::arg("nic", pair_.options().nic_name),
                                   fmt::arg("queue", owned_queue()), fmt::arg("owned_port", kOwnedUdpPort),
                                   fmt::arg("shared_port", kSharedUdpPort)));
}

Result<void> Stage::make_flows() {
  test::UdpFrame udp = pair_.to_nic();
  auto make = [&](std::uint16_t port, unsigned cpu, std::uint64_t rate) {
    udp.destination_port = port;
    test::LiveFramesOptions options;
    options.frame = test::udp_frame(udp);
    options.packets_per_second = rate;
    options.cpu = cpu;
    return test::LiveFrames::create(pair_, std::move(options));
  };
  // A little faster than promised, so that the rate as measured is not below it for the time that starting
  // takes.
  auto full = make(kOwnedUdpPort, layout_.generator_cpu, layout_.packets_per_second * 1005 / 1000);
  SLUICE_TRY(full);
  full_flow_ = std::move(*full);
  auto thin = make(kSharedUdpPort, layout_.receiver_cpu, kSharedRate);
  SLUICE_TRY(thin);
  thin_flow_ = std::move(*thin);
  return {};
}

bool Stage::has_xdp_program() const {
  return nic_ns_.in([&] {
    std::uint32_t id = 0;
    return ::bpf_xdp_query_id(pair_.nic_ifindex(), 0, &id) == 0 && id != 0;
  });
}

Result<App> Stage::start_app(const std::string& port, std::uint64_t first_sequence) const {
  auto app = App::start(socket_of(port), layout_.receiver_cpu, first_sequence);
  SLUICE_TRY(app);
  if (!wait_until(kPatience, [&] { return app->attached(); })) {
    return fail("the app could not attach to port {}: {}", port, app->stop());
  }
  return app;
}

}  // namespace sluice::demo
