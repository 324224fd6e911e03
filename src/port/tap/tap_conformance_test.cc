// The suite of lane_conformance.h on a tap's lane. The host's end is a packet socket on the device.
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <sys/socket.h>

#include "port/fake/lane_conformance.h"
#include "port/fake_services.h"
#include "port/tap/tap_port.h"
#include "test/support/net_ns.h"

namespace sluice {
namespace {

constexpr PortId kPort{7};

constexpr std::uint16_t kEtherType = 0x88b5;  // numbered_frame()'s

class TapUnderTest final : public LaneUnderTest {
 public:
  TapUnderTest() : ns_(test::NetNs::create().value()) {
    port_ = ns_.in([&] {
                 return TapPort::create({.id = kPort,
                                         .name = "host0",
                                         .netdev = "host0",
                                         .mac = {2, 0, 0, 0, 0, 7},
                                         .addresses = {},
                                         .workers = {WorkerId{0}}},
                                        host_.services());
               })
                .value();
    ns_.run([&] {
      socket_.reset(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(kEtherType)));
    });
    address_.sll_family = AF_PACKET;
    address_.sll_protocol = htons(kEtherType);
    address_.sll_ifindex = port_->ifindex();
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof address_), 0);
  }

  Lane& lane() override { return host_.lane(kPort); }
  std::optional<Bytes> read() override {
    Bytes frame(2048);
    const ssize_t bytes = ::recv(socket_.get(), frame.data(), frame.size(), 0);
    if (bytes < 0) {
      return std::nullopt;
    }
    frame.resize(static_cast<std::size_t>(bytes));
    return frame;
  }
  bool send(std::span<const std::byte> frame) override {
    return ::sendto(socket_.get(), frame.data(), frame.size(), 0,
                    reinterpret_cast<const sockaddr*>(&address_),
                    sizeof address_) == static_cast<ssize_t>(frame.size());
  }

 private:
  test::NetNs ns_;
  test::FakeServices host_;
  std::unique_ptr<TapPort> port_;
  UniqueFd socket_;
  sockaddr_ll address_{};
};

SLUICE_LANE_CONFORMANCE(TapLane, LaneFactory{[](std::string& why_not) -> std::unique_ptr<LaneUnderTest> {
                          why_not = test::why_no_root_and_xdp();
                          return why_not.empty() ? std::make_unique<TapUnderTest>() : nullptr;
                        }});

}  // namespace
}  // namespace sluice
