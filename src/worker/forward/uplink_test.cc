// A port with an address of its own behind a NIC that stays the kernel's: XDP leads to it what is for its
// address, broadcasts come by the packet socket, what it sends leaves by AF_XDP. The port is a tap in a
// namespace of its own, so that its kernel is another machine to the NIC's.
#include "port/fake_services.h"
#include "port/tap/tap_port.h"

#include "demux/demux.h"
#include "port/nic/broadcast_queue.h"
#include "port/nic/nic_fixture.h"
#include "worker/forward/switch.h"
#include "worker/worker.h"

namespace sluice {
namespace {

constexpr PortId kNic{2}, kHost{3};
constexpr MacAddress kHostMac{2, 0, 0, 0, 0, 0x33};

class Uplink : public NicTest {
 protected:
  void begin() {
    wire();
    memory_.emplace(memory(pages()));
    pool_ = memory_->pool(pages());
    nic_ = open(queue_options(), *memory_->umem, *pool_).value();
    demux_ = Demux::load(1).value();
    const Rule rule{.match = {.dst_mac = MacMatch{kHostMac, {255, 255, 255, 255, 255, 255}}}, .port = kHost};
    ASSERT_TRUE(demux_->set_port(kHost, {.kind = PortKind::kSocket}));
    ASSERT_TRUE(demux_->replace_rules(std::span(&rule, 1)));
    ASSERT_TRUE(demux_->set_socket(QueueId{0}, nic_->socket_fd()));
    link_.emplace(attach(demux_->program_fd()).value());
    broadcasts_ = nic_ns_
                      ->in([&] {
                        return BroadcastQueue::open({.netdev = pair_->options().nic_name,
                                                     .ifindex = pair_->nic_ifindex(),
                                                     .nic = NicId{3},
                                                     .port = kNic});
                      })
                      .value();
    ASSERT_TRUE(broadcasts_->accept(std::span(&kHostMac, 1)));
    host_ns_.emplace(test::NetNs::create().value());
    host_ = host_ns_
                ->in([&] {
                  return TapPort::create({.id = kHost,
                                          .name = "host0",
                                          .netdev = "host0",
                                          .mac = kHostMac,
                                          .addresses = {"10.77.0.3/24"},
                                          .uplink = kNic,
                                          .workers = {WorkerId{0}}},
                                         services_.services());
                })
                .value();
    switch_ = std::make_unique<Switch>(
        std::vector<SwitchPort>{{.port = kHost, .uplink = kNic, .macs = {kHostMac}}});
    worker_ = Worker::start({}).value();
    worker_->call([&](Worker::Tables& tables) {
      tables.queues = {nic_.get(), broadcasts_.get()};
      tables.lanes = {{kHost, &services_.lane(kHost)}};
      tables.by_port[raw(kNic)] = nic_.get();
      tables.by_port[raw(kHost)] = &services_.lane(kHost);
      tables.switching = switch_.get();
    });
  }
  void TearDown() override {
    if (worker_) {
      worker_->call([](Worker::Tables& tables) { tables = {}; });
    }
    link_.reset();
    nic_.reset();
  }
  static void expect_no_loss(const test::Finished& ping) {
    EXPECT_TRUE(ping.ok()) << ping.output;
    EXPECT_NE(ping.output.find(" 0% packet loss"), std::string::npos) << ping.output;
  }

  std::optional<Memory> memory_;
  std::unique_ptr<PagePool> pool_;
  std::unique_ptr<NicQueue> nic_;
  std::unique_ptr<Demux> demux_;
  std::optional<XdpLink> link_;
  std::unique_ptr<BroadcastQueue> broadcasts_;
  std::optional<test::NetNs> host_ns_;
  test::FakeServices services_;
  std::unique_ptr<TapPort> host_;
  std::unique_ptr<Switch> switch_;
  std::unique_ptr<Worker> worker_;
};

TEST_F(Uplink, ThePortBehindTheNicAndTheNicsOwnKernelAreBothReachedFromTheWire) {
  begin();
  expect_no_loss(pair_->wire_ns().command("ping -c 50 -i 0.01 -s 1400 -W 5 10.77.0.3"));
  expect_no_loss(pair_->wire_ns().command("ping -c 20 -i 0.01 -W 5 10.77.0.1"));
}

TEST_F(Uplink, ThePortReachesTheWire) {
  begin();
  expect_no_loss(host_ns_->command("ping -c 50 -i 0.01 -s 1400 -W 5 10.77.0.2"));
}

// As with macvtap: what the port sends leaves by the wire end of the NIC, and the NIC's own host is not
// there.
TEST_F(Uplink, ThePortDoesNotReachTheNicsOwnHost) {
  begin();
  EXPECT_FALSE(host_ns_->command("ping -c 1 -W 1 10.77.0.1").ok());
}

}  // namespace
}  // namespace sluice
