// Ethernet frames for tests, with correct lengths and checksums.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace sluice::test {

using Mac = std::array<std::uint8_t, 6>;
using Frame = std::vector<std::byte>;

std::string to_string(const Mac& mac);

// Offsets in a frame of udp_frame() without a VLAN tag.
inline constexpr std::size_t kIpOffset = 14;
inline constexpr std::size_t kSourcePortOffset = 34;
inline constexpr std::size_t kPayloadOffset = 42;

struct UdpFrame {
  Mac destination{0x02, 0, 0, 0, 0, 0x01};
  Mac source{0x02, 0, 0, 0, 0, 0x02};
  std::uint16_t vlan = 0;  // 0: untagged
  std::string source_ip = "10.77.0.2";
  std::string destination_ip = "10.77.0.1";
  std::uint16_t source_port = 4000;
  std::uint16_t destination_port = 5000;
  std::size_t frame_bytes = 60;  // of the whole frame, without FCS; at least 42 (46 with a tag)
};
// UDP over IPv4; byte i of the payload is i & 0xff.
Frame udp_frame(const UdpFrame& udp);

// The internet checksum (RFC 1071) of `bytes`, added to `start`, not yet complemented.
std::uint32_t checksum_add(std::span<const std::byte> bytes, std::uint32_t start = 0);
std::uint16_t checksum_finish(std::uint32_t sum);

}  // namespace sluice::test
