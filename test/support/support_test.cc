// The tools that other tests believe in.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <set>
#include <thread>

#include "base/clock.h"
#include "test/support/frame.h"
#include "test/support/live_frames.h"
#include "test/support/net_ns.h"
#include "test/support/ping.h"
#include "test/support/veth.h"

namespace sluice::test {
namespace {

TEST(Frame, HasTheChecksumsThatTheKernelWants) {
  Frame frame = udp_frame({});
  std::span<const std::byte> all(frame);
  EXPECT_EQ(checksum_finish(checksum_add(all.subspan(kIpOffset, 20))), 0);
  std::uint32_t pseudo =
      checksum_add(all.subspan(kIpOffset + 12, 8), static_cast<std::uint32_t>(17 + 60 - 34));
  EXPECT_EQ(checksum_finish(checksum_add(all.subspan(34), pseudo)), 0);
}

TEST(Process, IsGoneWithItsOwner) {
  pid_t pid = 0;
  {
    auto process = Process::start({"sleep", "1000"});
    ASSERT_TRUE(process) << process.error().message;
    pid = process->pid();
  }
  EXPECT_EQ(::kill(pid, 0), -1);
}

TEST(NetNs, KeepsItsLinksToItself) {
  SLUICE_NEED_ROOT_AND_XDP();
  auto one = NetNs::create().value(), two = NetNs::create().value();
  auto pair = VethPair::create(one, two);
  ASSERT_TRUE(pair) << pair.error().message;
  EXPECT_EQ(::if_nametoindex("nic0"), 0u);
  EXPECT_NE(one.in([] { return ::if_nametoindex("nic0"); }), 0u);
  EXPECT_EQ(one.in([] { return ::if_nametoindex("wire0"); }), 0u);
}

TEST(Ping, CrossesTheWire) {
  SLUICE_NEED_ROOT_AND_XDP();
  auto nic = NetNs::create().value(), wire = NetNs::create().value();
  auto pair = VethPair::create(nic, wire);
  ASSERT_TRUE(pair) << pair.error().message;
  PingResult result = ping(wire, "10.77.0.1", 5);
  EXPECT_EQ(result.sent, 5u) << result.output;
  EXPECT_TRUE(result.lossless()) << result.output;
  EXPECT_FALSE(ping(wire, "10.77.0.9", 1).lossless());
}

// A UDP socket behind the NIC end, in its namespace.
UniqueFd udp_receiver(const NetNs& ns, std::uint16_t port) {
  UniqueFd fd;
  ns.run([&] { fd.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)); });
  int bytes = 64 << 20;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
  timeval timeout{2, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  return fd;
}

TEST(LiveFrames, SendsExactlyWhatItSaysWithSequenceNumbersAndSourcePorts) {
  SLUICE_NEED_ROOT_AND_XDP();
  auto nic = NetNs::create().value(), wire = NetNs::create().value();
  auto pair = VethPair::create(nic, wire).value();
  UniqueFd receiver = udp_receiver(nic, 5000);
  LiveFramesOptions options;
  options.frame = udp_frame(pair.to_nic());
  options.count = 10'000;
  options.source_ports = 7;
  options.first_sequence = 1000;
  auto live = LiveFrames::create(pair, options);
  ASSERT_TRUE(live) << live.error().message;
  auto sent = (*live)->run();
  ASSERT_TRUE(sent) << sent.error().message;
  EXPECT_EQ(*sent, 10'000u);
  std::set<std::uint64_t> seen;
  for (std::uint64_t i = 0; i < *sent; ++i) {
    std::array<std::byte, 64> payload;
    sockaddr_in from{};
    socklen_t from_bytes = sizeof(from);
    ssize_t got = ::recvfrom(receiver.get(), payload.data(), payload.size(), 0,
                             reinterpret_cast<sockaddr*>(&from), &from_bytes);
    ASSERT_EQ(got, 18) << "after " << i << " packets";
    std::uint64_t sequence;
    std::memcpy(&sequence, payload.data(), 8);
    ASSERT_TRUE(seen.insert(sequence).second) << "twice: " << sequence;
    ASSERT_EQ(ntohs(from.sin_port), 4000 + sequence % 7);
  }
  EXPECT_EQ(*seen.begin(), 1000u);
  EXPECT_EQ(*seen.rbegin(), 10'999u);
}

TEST(LiveFrames, StopsWhenAskedAndGoesOnWithTheNextSequenceNumber) {
  SLUICE_NEED_ROOT_AND_XDP();
  auto nic = NetNs::create().value(), wire = NetNs::create().value();
  auto pair = VethPair::create(nic, wire).value();
  LiveFramesOptions options;
  options.frame = udp_frame(pair.to_nic());
  options.packets_per_second = 20'000;
  auto live = LiveFrames::create(pair, options).value();
  live->start();
  while (live->sent() < 100) {
    std::this_thread::yield();
  }
  auto sent = live->stop();
  ASSERT_TRUE(sent) << sent.error().message;
  EXPECT_GE(*sent, 100u);
  EXPECT_FALSE(live->running());
}

}  // namespace
}  // namespace sluice::test
