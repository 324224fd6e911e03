#include "test/system/fixture.h"

#include <unistd.h>

#include <cstring>
#include <stdexcept>

namespace sluice::test {

void need(bool had, const std::string& what) {
  if (!had) {
    throw std::runtime_error(what);
  }
}

std::string nic_table(const std::string& name, const std::string& more) {
  return fmt::format("[nic.{}]\n{}\n", name, more);
}

std::string app_port(const std::string& name, const std::string& more) {
  const std::string mac = more.find("mac = ") != std::string::npos
                              ? ""
                              : fmt::format("mac = \"{}\"\n", to_string(VethOptions{}.nic_mac));
  return fmt::format("[port.{0}]\ntype = \"app\"\nsocket = \"@/{0}.sock\"\n{1}{2}\n", name, mac, more);
}

std::string rule(const std::string& match, const std::string& to, const std::string& more) {
  return fmt::format("[[rule]]\nmatch = \"{}\"\nto = \"{}\"\n{}\n", match, to, more);
}

std::string udp_rule(std::uint16_t udp_port, const std::string& to, const std::string& more) {
  return rule(fmt::format("ip_proto udp dst_port {}", udp_port), to, more);
}

void SystemTest::SetUp() {
  SLUICE_NEED_ROOT_AND_XDP();
  if (::sysconf(_SC_NPROCESSORS_ONLN) < static_cast<long>(links_.queues)) {
    GTEST_SKIP() << "needs " << links_.queues
                 << " CPUs: what is redirected into a veth comes by the sender's CPU's queue";
  }
  auto nic = NetNs::create(), wire = NetNs::create();
  ASSERT_TRUE(nic && wire);
  nic_ns_ = std::move(*nic);
  wire_ns_ = std::move(*wire);
  make_wire();
  daemon_ = std::make_unique<Daemon>(*nic_ns_);
}

void SystemTest::make_wire() {
  auto pair = VethPair::create(*nic_ns_, *wire_ns_, links_);
  ASSERT_TRUE(pair) << pair.error().message;
  pair_ = std::move(*pair);
}

VethPair SystemTest::make_second_wire() {
  VethOptions options;
  options.nic_name = "nic1";
  options.wire_name = "wire1";
  options.nic_ip = "10.78.0.1";
  options.wire_ip = "10.78.0.2";
  options.nic_mac = {2, 0, 0, 0, 1, 1};
  options.wire_mac = {2, 0, 0, 0, 1, 2};
  return need(VethPair::create(*nic_ns_, *wire_ns_, options));
}

void SystemTest::TearDown() {
  if (!daemon_) {
    return;
  }
  if (daemon_->running()) {
    EXPECT_EQ(daemon_->stop(), 0);
    EXPECT_FALSE(nic_has_xdp());
  }
  std::string log = daemon_->log();
  EXPECT_EQ(log.find("CHECK"), std::string::npos) << log;
  EXPECT_EQ(log.find("Sanitizer"), std::string::npos) << log;
  if (HasFailure()) {
    std::fprintf(stderr, "the daemon's log:\n%s\n", log.c_str());
  }
}

void SystemTest::start(const std::string& config) {
  auto started = daemon_->start(config);
  ASSERT_TRUE(started) << started.error().message;
}

bool SystemTest::nic_has_xdp() {
  Finished shown = nic_ns_->command("ip -d link show " + pair_->options().nic_name);
  return shown.output.find("prog/xdp") != std::string::npos;
}

Frame SystemTest::frame_to(std::uint16_t udp_port, std::size_t frame_bytes) {
  UdpFrame udp = pair_->to_nic();
  udp.destination_port = udp_port;
  udp.frame_bytes = frame_bytes;
  return udp_frame(udp);
}

std::unique_ptr<App> SystemTest::attach(const std::string& port, std::uint16_t udp_port,
                                        std::uint64_t sequences, std::size_t frame_bytes) {
  App::Options options;
  options.socket = daemon_->path(port + ".sock");
  options.expected = frame_to(udp_port, frame_bytes);
  options.sequences = sequences;
  options.name = port + "-app";
  return need(App::attach(std::move(options)));
}

std::unique_ptr<LiveFrames> SystemTest::flow(std::uint16_t udp_port, const FlowOptions& options) {
  LiveFramesOptions live;
  live.frame = frame_to(udp_port, options.frame_bytes);
  live.count = options.count;
  live.allowed = options.allowed;
  live.cpu = options.cpu;
  live.first_sequence = options.first;
  live.packets_per_second = options.packets_per_second;
  return need(LiveFrames::create(*pair_, std::move(live)));
}

std::uint64_t SystemTest::port_counter(const std::string& port, const std::string& name) {
  return daemon_->counter("port." + port + "." + name);
}

void SystemTest::expect_port_counter(const std::string& port, const std::string& name, std::uint64_t value) {
  expect_counter("port." + port + "." + name, value);
}

void SystemTest::expect_counter(const std::string& flat_name, std::uint64_t value) {
  eventually([&] { return daemon_->counter(flat_name) >= value; });
  EXPECT_EQ(daemon_->counter(flat_name), value) << flat_name;
}

void SystemTest::send_in_steps(std::uint16_t udp_port, const FlowOptions& options,
                               const std::function<std::uint64_t()>& ended) {
  std::atomic<std::uint64_t> allowed{0};
  FlowOptions stepped = options;
  stepped.allowed = &allowed;
  auto live = flow(udp_port, stepped);
  live->start();
  for (std::uint64_t sent = 0; sent < options.count;) {
    sent = std::min(sent + kWindow, options.count);
    allowed = sent;
    if (!eventually([&] { return ended() >= sent; })) {
      ADD_FAILURE() << "of " << sent << " frames only " << ended() << " came to an end";
      break;
    }
  }
  auto done = live->stop();
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_EQ(ended(), options.count);
}

void SystemTest::send_counted(const std::string& port, std::uint16_t udp_port, const FlowOptions& options) {
  auto ended = [&] {
    nlohmann::json counters = daemon_->port(port)["counters"];
    std::uint64_t sum = 0;
    for (const char* name : {"rx_packets", "drop_ring_full", "drop_page_limit", "drop_too_long",
                             "drop_no_reader", "xdp_drop_shed", "xdp_drop_no_reader", "xdp_drop_no_socket"}) {
      sum += counters.at(name).get<std::uint64_t>();
    }
    return sum;
  };
  const std::uint64_t before = ended();
  send_in_steps(udp_port, options, [&] { return ended() - before; });
}

Frame SystemTest::frame_from_nic(std::size_t frame_bytes, std::uint64_t seed) {
  UdpFrame udp;
  udp.destination = pair_->options().wire_mac;
  udp.source = pair_->options().nic_mac;
  udp.frame_bytes = frame_bytes;
  Frame frame = udp_frame(udp);
  if (frame.size() >= kPayloadOffset + sizeof(seed)) {
    std::memcpy(frame.data() + kPayloadOffset, &seed, sizeof(seed));
  }
  return frame;
}

Stream SystemTest::stream_to(const std::string& port, std::uint16_t udp_port, std::uint16_t queue) {
  auto app = attach(port, udp_port, kAnyNumber);
  FlowOptions options{.allowed = app->allowed(queue), .packets_per_second = 30'000};
  if (links_.queues > 1) {
    options.cpu = queue;
  }
  auto live = flow(udp_port, options);
  return Stream(std::move(app), std::move(live));
}

Stream::Stream(std::unique_ptr<App> app, std::unique_ptr<LiveFrames> flow)
    : app_(std::move(app)), flow_(std::move(flow)) {
  flow_->start();
  need(eventually([&] { return app_->received() > 0; }), "nothing comes");
}

void Stream::expect_nothing_lost() {
  const std::uint64_t before = app_->received();
  EXPECT_TRUE(eventually([&] { return app_->received() > before; })) << "it has ceased";
  auto sent = flow_->stop();
  ASSERT_TRUE(sent) << sent.error().message;
  app_->expect_all_once(*sent);
  EXPECT_EQ(app_->attaches(), 1u);
}

void expect_sent(LiveFrames& flow, std::uint64_t count) {
  auto sent = flow.run();
  ASSERT_TRUE(sent) << sent.error().message;
  EXPECT_EQ(*sent, count);
}

}  // namespace sluice::test
