// Ports that are another netdev: packets really leave by a veth, in a network namespace that the test makes.
#include <bpf/libbpf.h>
#include <gtest/gtest.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "base/clock.h"
#include "demux/demux_fixture.h"

namespace sluice {
namespace {

using testing::Bytes;
using testing::DemuxTest;
using testing::PacketBuilder;

constexpr std::uint64_t kDeadlineNs = 10'000'000'000;

class NetdevTest : public DemuxTest {
 protected:
  // A thread of its own: the namespace goes when the thread and its descriptors have gone.
  void in_namespace(const std::function<void()>& body) {
    std::thread thread([&] {
      if (::unshare(CLONE_NEWNET) != 0) {
        GTEST_SKIP() << "no network namespaces: " << std::strerror(errno);
      }
      ASSERT_EQ(
          std::system("ip link add near type veth peer name far && ip link set near up && ip link set far up "
                      "&& ip link set lo up"),
          0);
      body();
    });
    thread.join();
  }
};

// What arrives on `netdev` and is `frame`, at most `wanted` times, until the deadline.
int arrivals(int socket, const Bytes& frame, int wanted) {
  int arrived = 0;
  std::uint64_t deadline = now_ns() + kDeadlineNs;
  while (arrived < wanted && now_ns() < deadline) {
    pollfd ready{.fd = socket, .events = POLLIN, .revents = 0};
    if (::poll(&ready, 1, 100) <= 0) {
      continue;
    }
    Bytes buffer(2048);
    ssize_t length = ::recv(socket, buffer.data(), buffer.size(), 0);
    buffer.resize(length > 0 ? static_cast<std::size_t>(length) : 0);
    arrived += buffer == frame;
  }
  return arrived;
}

TEST_F(NetdevTest, PacketsLeaveByTheNetdevUnchangedUntilItIsGone) {
  in_namespace([&] {
    int near = static_cast<int>(::if_nametoindex("near"));
    int far = static_cast<int>(::if_nametoindex("far"));
    // veth takes redirected frames only if its other end has a program; one without rules passes all to the
    // stack.
    auto receiver = Demux::load(1);
    ASSERT_TRUE(receiver) << receiver.error().message;
    ASSERT_EQ(::bpf_xdp_attach(far, (*receiver)->program_fd(), 0, nullptr), 0);
    UniqueFd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL)));
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = far;
    ASSERT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);

    PortId port{9};
    ASSERT_TRUE(demux_->set_port(port, {.kind = PortKind::kNetdev, .ifindex = near}));
    use({rule("dst_port 53", 0, port)});
    Bytes frame = PacketBuilder().ipv4("10.0.0.1", "10.0.0.2").udp(4000, 53).payload(30).build();
    EXPECT_EQ(run(frame).verdict, static_cast<std::uint32_t>(XDP_REDIRECT));
    auto live = run(frame, {.repeat = 16, .live = true});
    ASSERT_EQ(live.error, 0) << std::strerror(live.error);
    EXPECT_EQ(arrivals(socket.get(), frame, 16), 16);
    EXPECT_EQ(counters()["redirect_netdev"], 17u);
    EXPECT_EQ(counters(port)["packets"], 17u);

    ASSERT_TRUE(demux_->set_port(port, {.kind = PortKind::kDetached}));
    EXPECT_EQ(run(frame).verdict, static_cast<std::uint32_t>(XDP_DROP));
    ASSERT_TRUE(demux_->set_port(port, {.kind = PortKind::kNetdev, .ifindex = near}));
    ASSERT_EQ(std::system("ip link delete near"), 0);
    EXPECT_EQ(run(frame).verdict, static_cast<std::uint32_t>(XDP_DROP));
    EXPECT_EQ(counters(port)["drop_no_netdev"], 1u);
    EXPECT_TRUE(demux_->set_port(port, {.kind = PortKind::kUnused}));
  });
}

TEST_F(NetdevTest, ANetdevThatDoesNotExistIsAnErrorAndChangesNothing) {
  in_namespace([&] {
    PortId port{9};
    ASSERT_TRUE(demux_->set_port(port, {.kind = PortKind::kDetached}));
    auto set = demux_->set_port(port, {.kind = PortKind::kNetdev, .ifindex = 12345});
    ASSERT_FALSE(set);
    EXPECT_NE(set.error().message.find("cannot redirect port 9 to the netdev with index 12345"),
              std::string::npos);
    use({rule("", 0, port)});
    run(PacketBuilder().build(60));
    EXPECT_EQ(counters(port)["drop_no_reader"], 1u);
  });
}

}  // namespace
}  // namespace sluice
