// The header in front of every frame in a virtio-net buffer (virtio 1.2, 5.1.6): the one place that knows it.
//
//   no offload is offered (CSUM, GUEST_TSO, HOST_TSO ...), so
//     towards the guest   all fields are 0 but num_buffers
//     from the guest      flags and gso_type must be 0; the rest has no meaning then and is ignored
//
// When offloads are offered, what a frame still lacks (checksum, segmentation) is read and written here.
#pragma once

#include <linux/virtio_config.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace sluice {

inline constexpr std::uint32_t kNetHeaderBytes = 12;  // struct virtio_net_hdr_v1
inline constexpr std::uint32_t kNetHeaderBytesLegacy =
    10;                                        // without num_buffers: before virtio 1, not mergeable
inline constexpr unsigned kMergeableBit = 15;  // VIRTIO_NET_F_MRG_RXBUF; <linux/virtio_net.h> is C

inline constexpr bool has_feature(std::uint64_t features, unsigned bit) {
  return (features >> bit & 1) != 0;
}

inline constexpr std::uint32_t net_header_bytes(std::uint64_t features) {
  return has_feature(features, VIRTIO_F_VERSION_1) || has_feature(features, kMergeableBit)
             ? kNetHeaderBytes
             : kNetHeaderBytesLegacy;
}

// Writes the header of a frame that fills one buffer. A header that is right already stays as it is: in many
// guests it has a cache line of its own, which then need not travel. What is read there decides nothing else.
inline void write_net_header(std::byte* to, std::uint32_t header_bytes) {
  constexpr std::uint16_t kOneBuffer = 1;
  std::uint64_t front;
  std::uint16_t offset, buffers = kOneBuffer;
  std::memcpy(&front, to, sizeof front);
  std::memcpy(&offset, to + 8, sizeof offset);
  if (header_bytes == kNetHeaderBytes) [[likely]] {
    std::memcpy(&buffers, to + 10, sizeof buffers);
  }
  if ((front | offset) != 0 || buffers != kOneBuffer) [[unlikely]] {
    std::memset(to, 0, kNetHeaderBytesLegacy);
    if (header_bytes == kNetHeaderBytes) {
      std::memcpy(to + 10, &kOneBuffer, sizeof kOneBuffer);
    }
  }
}

// The same for a frame in any number of buffers, in private memory: always kNetHeaderBytes.
inline void make_net_header(std::byte* to, std::uint16_t buffers) {
  std::memset(to, 0, kNetHeaderBytesLegacy);
  std::memcpy(to + 10, &buffers, sizeof buffers);
}

// What a guest asks for that nobody offered. `front` is the private copy of the header's first 8 bytes:
// flags, gso_type, hdr_len, gso_size, csum_start.
inline bool net_header_is_plain(std::uint64_t front) {
  return (front & 0xffff) == 0;
}

}  // namespace sluice
