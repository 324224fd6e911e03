// The peers without Sluice: what fails here is the machine's or the test bed's fault.
#include "test/guest/fixture.h"
#include "test/guest/qemu_guest.h"
#include "test/support/ping.h"

namespace sluice::test {
namespace {

class Peers : public GuestTest {
 protected:
  // DPDK's own back-end, bridged to the NIC.
  std::unique_ptr<Testpmd> start_back_end() {
    auto back_end = need(Testpmd::start(
        {.name = "back", .vdevs = {"net_af_packet0,iface=nic0", vhost_vdev(socket_)}, .ns = &nic_ns()}));
    need(back_end->ready());
    back_end->command("start");
    return back_end;
  }

  TempFolder folder_;
  const std::string socket_ = folder_ / "guest.sock";
};

TEST_F(Peers, AVirtioUserGuestBehindDpdksOwnBackEndEchoesWhatComesFromTheWire) {
  if (std::string why = Testpmd::why_none(); !why.empty()) {
    GTEST_SKIP() << why;
  }
  auto back_end = start_back_end();
  auto guest = need(Testpmd::start({.vdevs = {vdev({.socket = socket_})}, .mode = "macswap"}));
  need(guest->ready());
  guest->command("start");
  ASSERT_TRUE(echo_works(pair())) << back_end->log() << guest->log();
  EchoResult result = echo(pair(), {.frames = 500, .window = 16});
  EXPECT_TRUE(result.perfect()) << result.text();
  EXPECT_GE(guest->stats().rx_packets, 500u);
  EXPECT_EQ(guest->quit(), 0) << guest->log();
  EXPECT_EQ(back_end->quit(), 0) << back_end->log();
}

TEST_F(Peers, ALinuxGuestBehindDpdksOwnBackEndAnswersPings) {
  if (std::string why = QemuGuest::why_none() + Testpmd::why_none(); !why.empty()) {
    GTEST_SKIP() << why;
  }
  auto image = guest_image(kStandardSuite, folder_.path(), {});
  if (!image) {
    GTEST_SKIP() << image.error().message;
  }
  auto back_end = start_back_end();
  auto guest = need(QemuGuest::start({.image = *image,
                                      .address = "10.77.0.11/24",
                                      .nics = {{.socket = socket_, .mac = "52:54:00:00:00:01"}}}));
  need(guest->up());
  EXPECT_TRUE(eventually([&] { return ping(wire_ns(), "10.77.0.11", 1).lossless(); })) << guest->log();
  Finished pinged = guest->run("ping -c 3 -i 0.1 10.77.0.2");
  EXPECT_TRUE(pinged.ok()) << pinged.output;
}

}  // namespace
}  // namespace sluice::test
