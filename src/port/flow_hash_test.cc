#include "port/flow_hash.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <random>

#include "demux/packet_builder.h"

namespace sluice {
namespace {

using testing::Bytes;
using testing::PacketBuilder;

std::uint32_t hash(const Bytes& frame) {
  return flow_hash_of(std::as_bytes(std::span(frame)));
}

Bytes udp(std::uint16_t source, std::uint16_t destination, std::size_t payload = 0) {
  return PacketBuilder().ipv4("10.0.0.1", "10.0.0.2").udp(source, destination).payload(payload).build();
}

TEST(FlowHash, IsEqualWithinAFlowAndNotOfTheOtherDirection) {
  EXPECT_EQ(hash(udp(4000, 53)), hash(udp(4000, 53, 500)));
  EXPECT_NE(hash(udp(4000, 53)), hash(udp(53, 4000)));
  EXPECT_NE(hash(udp(4000, 53)), hash(PacketBuilder().ipv4("10.0.0.2", "10.0.0.1").udp(4000, 53).build()));
  EXPECT_NE(hash(udp(4000, 53)), hash(PacketBuilder().ipv4("10.0.0.1", "10.0.0.2").tcp(4000, 53).build()));
}

// 4096 flows of each kind over 64 readers by the lowest bits: 64 each, give or take.
template <typename Make>
void expect_spread(Make make) {
  std::array<int, 64> buckets{};
  for (std::uint32_t i = 0; i < 4096; ++i) {
    ++buckets[hash(make(i)) % 64];
  }
  auto [least, most] = std::ranges::minmax(buckets);
  EXPECT_GT(least, 20);
  EXPECT_LT(most, 140);
}

TEST(FlowHash, SpreadsFlowsOfEveryKind) {
  expect_spread([](std::uint32_t i) { return udp(4000, static_cast<std::uint16_t>(i)); });
  expect_spread([](std::uint32_t i) { return udp(static_cast<std::uint16_t>(i), 53); });
  expect_spread([](std::uint32_t i) {
    return PacketBuilder().tag(7).ipv4("10.0.0.1", "10.0.0.2").udp(1, static_cast<std::uint16_t>(i)).build();
  });
  auto address = [](std::uint32_t i) { return fmt::format("10.1.{}.{}", i / 256, i % 256); };
  expect_spread([&](std::uint32_t i) {
    return PacketBuilder().ipv4("10.0.0.1", address(i).c_str()).udp(1, 2).build();
  });
  expect_spread([&](std::uint32_t i) {
    return PacketBuilder().ipv4(address(i).c_str(), "10.0.0.1").tcp(1, 2).build();
  });
  auto address6 = [](std::uint32_t i) { return fmt::format("2001:db8::{:x}", i); };
  expect_spread(
      [&](std::uint32_t i) { return PacketBuilder().ipv6("::1", address6(i).c_str()).tcp(1, 2).build(); });
  expect_spread(
      [&](std::uint32_t i) { return PacketBuilder().ipv6(address6(i).c_str(), "::1").tcp(1, 2).build(); });
  expect_spread([](std::uint32_t i) {
    return PacketBuilder()
        .macs({2, 0, 0, 0, static_cast<std::uint8_t>(i / 256), static_cast<std::uint8_t>(i)}, {})
        .build(60);
  });
}

// Exactly as long as it says: the address sanitizer catches a read behind the end.
TEST(FlowHash, Malicious_ReadsNothingBehindTheEndOfAnyFrame) {
  std::mt19937 random(3);
  const std::array<Bytes, 3> whole{udp(1, 2),
                                   PacketBuilder().tag(1).tag(2).ipv4("1.1.1.1", "2.2.2.2").tcp(1, 2).build(),
                                   PacketBuilder().ipv6("::1", "::2").udp(1, 2).build()};
  std::uint32_t sum = 0;
  for (const Bytes& frame : whole) {
    for (std::size_t bytes = 0; bytes <= frame.size(); ++bytes) {
      for (int round = 0; round < 20; ++round) {
        auto cut = std::make_unique<std::byte[]>(bytes);
        std::memcpy(cut.get(), frame.data(), bytes);
        if (round > 0 && bytes > 14) {
          cut[14 + random() % (bytes - 14)] = static_cast<std::byte>(random());
        }
        sum += flow_hash_of(std::span(cut.get(), bytes));
      }
    }
  }
  EXPECT_NE(sum, 0u);
}

}  // namespace
}  // namespace sluice
