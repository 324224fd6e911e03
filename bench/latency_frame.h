// What the programs of `latency_bench` say to each other: a request is a UDP datagram that begins with
// Stamps, an answer is the same datagram back, with the echo's stamps where the echo is one of ours.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace sluice::bench {

inline constexpr std::uint16_t kEchoPort = 5000;

// All times are CLOCK_MONOTONIC; 0: not known.
struct Stamps {
  std::uint64_t sequence = 0;
  std::uint64_t sent_ns = 0;      // by the client
  std::uint64_t worker_ns = 0;    // when Sluice's worker took it from the NIC
  std::uint64_t received_ns = 0;  // when the echo had it
  std::uint64_t answered_ns = 0;  // just before the echo gave the answer away
};

inline constexpr std::size_t kUdpPayload = 42;  // Ethernet, IPv4 without options, UDP

// Makes the frame its own answer: addresses and ports change places, no UDP checksum (RFC 768). False: it is
// no datagram for the echo.
inline bool turn_around(std::span<std::byte> frame) {
  const auto u16 = [&](std::size_t at) {
    return std::to_integer<unsigned>(frame[at]) << 8 | std::to_integer<unsigned>(frame[at + 1]);
  };
  if (frame.size() < kUdpPayload || u16(12) != 0x0800 || std::to_integer<unsigned>(frame[14]) != 0x45 ||
      std::to_integer<unsigned>(frame[23]) != 17 || u16(36) != kEchoPort) {
    return false;
  }
  std::byte* at = frame.data();
  std::swap_ranges(at, at + 6, at + 6);
  std::swap_ranges(at + 26, at + 30, at + 30);
  std::swap_ranges(at + 34, at + 36, at + 36);
  at[40] = at[41] = std::byte{0};
  return true;
}

// Into the datagram, if it is long enough to be a request.
inline void stamp(std::span<std::byte> datagram, std::uint64_t worker_ns, std::uint64_t received_ns,
                  std::uint64_t answered_ns) {
  if (datagram.size() < sizeof(Stamps)) {
    return;
  }
  const std::uint64_t times[] = {worker_ns, received_ns, answered_ns};
  static_assert(offsetof(Stamps, worker_ns) + sizeof(times) == sizeof(Stamps));
  std::memcpy(datagram.data() + offsetof(Stamps, worker_ns), times, sizeof(times));
}

}  // namespace sluice::bench
