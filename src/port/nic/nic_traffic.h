// Both ends of the traffic in the tests of this folder: who receives from a queue, what leaves by it, who
// sees it come out.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "port/nic/queue.h"
#include "test/support/live_frames.h"
#include "test/support/veth.h"

namespace sluice {

// Packets on their way at one time: fewer than the 256 that veth queues between its ends (drivers/net/veth.c,
// VETH_RING_SIZE), so that nothing is lost however late the softirq runs.
inline constexpr std::uint64_t kWindow = 192;

// Receives until `sequences` numbers have come, each once; checks what every packet says of itself.
class Receiver {
 public:
  Receiver(std::uint64_t sequences, const Arena& arena, test::Frame expected)
      : seen_(sequences, 0), arena_(arena), expected_(std::move(expected)) {}

  std::uint32_t turn(NicQueue& queue, QueueId id) {
    BurstInfo info;
    std::uint32_t count = queue.burst(packets_, info);
    for (std::uint32_t i = 0; i < count; ++i) {
      check(packets_[i]);
    }
    if (count != 0) {
      EXPECT_EQ(info.queue, id);
      EXPECT_EQ(info.nic, NicId{3});
      EXPECT_EQ(info.domain, DomainId::kHost);
      EXPECT_EQ(info.port, PortId::kKernel);
    }
    queue.done(std::span(packets_.data(), count));
    queue.poll();
    received_ += count;
    allowed.store(received_ + kWindow, std::memory_order_relaxed);
    return count;
  }
  std::atomic<std::uint64_t> allowed{kWindow};  // for LiveFramesOptions
  std::uint64_t received() const { return received_; }
  void expect_each_once() const {
    std::uint64_t lost = 0, doubled = 0;
    for (std::uint8_t times : seen_) {
      lost += times == 0 ? 1 : 0;
      doubled += times > 1 ? 1 : 0;
    }
    EXPECT_EQ(lost, 0u);
    EXPECT_EQ(doubled, 0u);
    EXPECT_EQ(wrong_, 0u);
  }

 private:
  void check(const Packet& packet) {
    std::uint64_t sequence = test::sequence_of(packet.body);
    bool right = packet.head_bytes == 0 && packet.body_bytes == expected_.size() &&
                 packet.port == PortId{9} && packet.rule == 77 && packet.page != PageIndex::kNone &&
                 packet.body >= arena_.page(packet.page) &&
                 packet.body < arena_.page(packet.page) + arena_.page_bytes() && sequence < seen_.size();
    // Behind checksum and sequence number the frame is the template; so are the addresses in front.
    right = right && std::memcmp(packet.body, expected_.data(), test::kSourcePortOffset) == 0 &&
            std::memcmp(packet.body + 50, expected_.data() + 50, expected_.size() - 50) == 0;
    if (right) {
      ++seen_[sequence];
    } else {
      ++wrong_;
    }
  }

  std::array<Packet, kBurst> packets_;
  std::vector<std::uint8_t> seen_;
  const Arena& arena_;
  test::Frame expected_;
  std::uint64_t received_ = 0, wrong_ = 0;
};

// Everything that comes out of the wire end, by a packet socket.
class WireTap {
 public:
  WireTap(const test::VethPair& pair) {
    pair.wire_ns().run(
        [&] { fd_.reset(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_IP))); });
    SLUICE_CHECK(fd_, "packet socket: errno {}", errno);
    int bytes = 64 << 20;
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_IP);
    address.sll_ifindex = pair.wire_ifindex();
    SLUICE_CHECK(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0, "errno {}",
                 errno);
  }
  // The next frame; empty: none now.
  test::Frame next() {
    test::Frame frame(65536);
    sockaddr_ll from{};
    socklen_t from_bytes = sizeof(from);
    ssize_t got =
        ::recvfrom(fd_.get(), frame.data(), frame.size(), 0, reinterpret_cast<sockaddr*>(&from), &from_bytes);
    if (got <= 0 || from.sll_pkttype == PACKET_OUTGOING) {
      return {};
    }
    frame.resize(static_cast<std::size_t>(got));
    return frame;
  }

 private:
  UniqueFd fd_;
};

// Frames of a peer, with a head and a body that lie in different places.
struct Outgoing {
  std::vector<test::Frame> frames;
  std::vector<Packet> packets;
  Outgoing(const test::VethPair& pair, std::uint32_t count, std::uint32_t first, std::uint16_t head_bytes) {
    for (std::uint32_t i = 0; i < count; ++i) {
      test::UdpFrame udp;
      udp.destination = pair.options().wire_mac;
      udp.source = pair.options().nic_mac;
      udp.frame_bytes = 60 + (first + i) % 1400;
      frames.push_back(test::udp_frame(udp));
      std::uint64_t sequence = first + i;
      std::memcpy(frames.back().data() + test::kPayloadOffset, &sequence, 8);
    }
    for (test::Frame& frame : frames) {
      Packet packet;
      packet.head = frame.data();
      packet.head_bytes = head_bytes;
      packet.body = frame.data() + head_bytes;
      packet.body_bytes = static_cast<std::uint32_t>(frame.size()) - head_bytes;
      packets.push_back(packet);
    }
  }
};

}  // namespace sluice
