// A hash of a frame's flow, for the choice among queues: same flow, same queue. Not for anything that an
// attacker must not steer: a guest that makes collisions fills one of its own queues.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>

namespace sluice {

inline std::uint32_t flow_hash_of(std::span<const std::byte> front) {
  auto load = [front]<typename Word>(std::size_t at, Word word) {
    std::memcpy(&word, front.data() + at, sizeof word);
    return static_cast<std::uint64_t>(word);
  };
  constexpr std::uint64_t kOdd = 0x9e37'79b9'7f4a'7c15;
  if (front.size() < 14) {
    return 0;
  }
  const auto type = static_cast<std::uint16_t>(load(12, std::uint16_t{}));
  std::uint64_t mixed;
  if (type == 0x0008 && front.size() >= 38) {  // IPv4
    mixed = load(26, std::uint64_t{});         // addresses
    const bool plain = front[14] == std::byte{0x45} && (load(20, std::uint16_t{}) & 0xff3f) == 0;
    mixed = (mixed ^ (plain ? load(34, std::uint32_t{}) << 16 : 0)) * kOdd;  // ports, of what is no fragment
  } else if (type == 0xdd86 && front.size() >= 58) {                         // IPv6
    mixed = (load(22, std::uint64_t{}) ^ load(38, std::uint64_t{}) * 3) * kOdd;
    mixed = (mixed ^ load(30, std::uint64_t{}) ^ load(46, std::uint64_t{}) * 5) * kOdd;
    const auto protocol = front[20];
    if (protocol == std::byte{6} || protocol == std::byte{17}) {
      mixed = (mixed ^ load(54, std::uint32_t{})) * kOdd;
    }
  } else {
    mixed = (load(0, std::uint64_t{}) ^ load(6, std::uint64_t{}) << 7) * kOdd;  // addresses
  }
  mixed ^= mixed >> 29;
  return static_cast<std::uint32_t>((mixed * kOdd) >> 32);
}

}  // namespace sluice
