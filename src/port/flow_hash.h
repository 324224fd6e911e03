// The flow of a frame as a number: equal for all packets of a flow, the two directions differ. From the IP
// addresses, the protocol and the ports; from the MAC addresses where there is no IP. Fragments have no
// ports, nor have headers that are not there as a whole. Not for anything that an attacker must not steer:
// the function is public, and who wants collisions can make them.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace sluice {

namespace flow_hash_detail {

template <typename Word>
std::uint64_t load(std::span<const std::byte> frame, std::size_t at) {
  Word word;
  std::memcpy(&word, frame.data() + at, sizeof word);
  return word;
}

// A number as it stands on the wire.
constexpr std::uint64_t wire16(std::uint16_t value) {
  return std::endian::native == std::endian::little ? static_cast<std::uint16_t>(value << 8 | value >> 8)
                                                    : value;
}

constexpr std::uint64_t kOdd = 0x9e37'79b9'7f4a'7c15, kOdd2 = 0xb7e1'5162'8aed'2a6b,
                        kOdd3 = 0x6a09'e667'f3bc'c909, kOdd4 = 0xbb67'ae85'84ca'a73b;

// TCP, UDP and SCTP begin with their ports.
constexpr bool has_ports(std::uint64_t protocol) {
  return protocol == 6 || protocol == 17 || protocol == 132;
}

inline std::uint32_t hash(std::span<const std::byte> frame) {
  constexpr std::size_t kTypeAt = 12;
  if (frame.size() < kTypeAt + 2) {
    return 0;
  }
  std::size_t ip = kTypeAt + 2;
  std::uint64_t type = load<std::uint16_t>(frame, kTypeAt);
  for (int tags = 0; tags < 2 && (type == wire16(0x8100) || type == wire16(0x88a8)); ++tags) {  // D6
    if (frame.size() < ip + 4) {
      break;
    }
    type = load<std::uint16_t>(frame, ip + 2);
    ip += 4;
  }
  std::uint64_t mixed, protocol = 0, ports = 0;
  if (type == wire16(0x0800) && frame.size() >= ip + 20) {
    mixed = load<std::uint64_t>(frame, ip + 12);
    protocol = load<std::uint8_t>(frame, ip + 9);
    const std::size_t l4 = ip + (load<std::uint8_t>(frame, ip) & 15) * 4;
    const bool fragment = (load<std::uint16_t>(frame, ip + 6) & wire16(0x3fff)) != 0;
    if (has_ports(protocol) && !fragment && frame.size() >= l4 + 4) {
      ports = load<std::uint32_t>(frame, l4);
    }
  } else if (type == wire16(0x86dd) && frame.size() >= ip + 40) {
    mixed = load<std::uint64_t>(frame, ip + 8) + load<std::uint64_t>(frame, ip + 16) * kOdd2 +
            load<std::uint64_t>(frame, ip + 24) * kOdd3 + load<std::uint64_t>(frame, ip + 32) * kOdd4;
    protocol = load<std::uint8_t>(frame, ip + 6);  // of extension headers nothing further is read
    if (has_ports(protocol) && frame.size() >= ip + 44) {
      ports = load<std::uint32_t>(frame, ip + 40);
    }
  } else {
    mixed = load<std::uint64_t>(frame, 0) + load<std::uint64_t>(frame, 6) * kOdd2;
  }
  mixed ^= (protocol << 32 | ports) * kOdd;
  mixed = (mixed ^ mixed >> 32) * kOdd;
  return static_cast<std::uint32_t>(mixed >> 32);
}

}  // namespace flow_hash_detail

inline std::uint32_t flow_hash_of(std::span<const std::byte> frame) {
  return flow_hash_detail::hash(frame);
}

}  // namespace sluice
