// Two hosts, each behind a tap device in a namespace of its own, joined by nothing but a worker's switch.
#include <gtest/gtest.h>

#include "port/fake_services.h"
#include "port/tap/tap_port.h"
#include "test/support/net_ns.h"
#include "worker/forward/switch.h"
#include "worker/worker.h"

namespace sluice {
namespace {

constexpr PortId kLeft{10}, kRight{11};

struct Host {
  test::NetNs ns = test::NetNs::create().value();
  test::FakeServices services;
  std::unique_ptr<TapPort> port;

  void begin(PortId id, std::string address, std::uint16_t vlan, std::vector<WorkerId> workers) {
    auto made = ns.in([&] {
      return TapPort::create({.id = id,
                              .name = "host0",
                              .netdev = "host0",
                              .mac = {2, 0, 0, 0, 0, static_cast<std::uint8_t>(raw(id))},
                              .addresses = {std::move(address)},
                              .mtu = 1500,
                              .vlan = vlan,
                              .uplink = PortId::kDrop,
                              .workers = std::move(workers)},
                             services.services());
    });
    ASSERT_TRUE(made) << made.error().message;
    port = std::move(*made);
  }
  SwitchPort member() const {
    return {.port = port->options().id, .vlan = port->options().vlan, .macs = {port->options().mac}};
  }
};

class HostSwitch : public ::testing::Test {
 protected:
  void SetUp() override { SLUICE_NEED_ROOT_AND_XDP(); }
  void begin(std::uint16_t left_vlan, std::uint16_t right_vlan, std::uint16_t worker_count = 1) {
    std::vector<WorkerId> ids;
    for (std::uint16_t i = 0; i < worker_count; ++i) {
      ids.push_back(WorkerId{i});
    }
    left_.begin(kLeft, "10.78.0.1/24", left_vlan, ids);
    right_.begin(kRight, "10.78.0.2/24", right_vlan, ids);
    switch_ = std::make_unique<Switch>(std::vector{left_.member(), right_.member()});
    for (WorkerId id : ids) {
      workers_.push_back(Worker::start({.id = id}).value());
      workers_.back()->call([&](Worker::Tables& tables) {
        tables.switching = switch_.get();
        for (Host* host : {&left_, &right_}) {
          Lane* lane = &host->services.lane(host->port->id(), id);
          tables.lanes.emplace_back(host->port->id(), lane);
          tables.by_port[raw(host->port->id())] = lane;
        }
      });
    }
  }
  void TearDown() override {
    for (auto& worker : workers_) {
      worker->call([](Worker::Tables& tables) { tables = {}; });
    }
  }
  test::Finished ping(const char* options) const {
    return left_.ns.command(std::string("ping ") + options + " 10.78.0.2");
  }

  Host left_, right_;
  std::unique_ptr<Switch> switch_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

TEST_F(HostSwitch, TwoHostsReachEachOther) {
  begin(0, 0);
  const auto done = ping("-c 20 -i 0.01 -s 1400 -W 5");
  EXPECT_TRUE(done.ok()) << done.output;
  EXPECT_NE(done.output.find(" 0% packet loss"), std::string::npos) << done.output;
}

TEST_F(HostSwitch, TwoHostsOfOneVlanReachEachOtherThroughSeveralWorkers) {
  begin(77, 77, 2);
  const auto done = ping("-c 20 -i 0.01 -s 1472 -W 5");
  EXPECT_TRUE(done.ok()) << done.output;
}

TEST_F(HostSwitch, HostsOfTwoVlansDoNotHearEachOther) {
  begin(77, 78);
  EXPECT_FALSE(ping("-c 1 -W 1").ok());
}

}  // namespace
}  // namespace sluice
