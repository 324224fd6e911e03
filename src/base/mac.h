// MacAddress: the 6 bytes of an Ethernet address, in the order of the wire.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

namespace sluice {

using MacAddress = std::array<std::uint8_t, 6>;

// The address in the low 6 bytes of a word, as a little-endian load finds them; the other bytes are 0.
inline std::uint64_t mac_word(const MacAddress& mac) {
  std::uint64_t word = 0;
  std::memcpy(&word, mac.data(), mac.size());
  return word;
}

// Broadcast is multicast too (IEEE 802, the I/G bit).
inline bool is_multicast(std::uint64_t mac_word_value) {
  return (mac_word_value & 1) != 0;
}

}  // namespace sluice
