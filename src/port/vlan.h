// 802.1Q tags. Inside Sluice a frame always carries its VLAN as a tag, as on the wire. A port with an access
// VLAN is the only place where that changes: its lane pushes the tag on what the peer sends and pops it from
// what the peer gets. All of this is of private bytes: a head that has been copied already, or a page that no
// peer writes (D3).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "port/packet.h"

namespace sluice {

inline constexpr std::uint32_t kVlanTagBytes = 4;
inline constexpr std::uint32_t kVlanTagOffset = 12;      // behind the two addresses
inline constexpr std::uint32_t kTaggedHeaderBytes = 18;  // addresses, tag, EtherType
inline constexpr std::uint16_t kMaxVlan = 4094;          // 4095 is reserved (IEEE 802.1Q table 9-2)
inline constexpr std::uint16_t kVlanTpid = 0x8100;
inline constexpr std::uint16_t kBadVlan = 0xffff;  // the tag ends behind the frame: of no VLAN

// 802.1Q, 802.1ad, and what switches took for outer tags before it.
constexpr bool is_tag(std::uint16_t type) {
  return type == kVlanTpid || type == 0x88a8 || type == 0x9100 || type == 0x9200 || type == 0x9300;
}

inline std::uint16_t load_be16(const std::byte* from) {
  std::uint16_t value;
  std::memcpy(&value, from, sizeof value);
  return __builtin_bswap16(value);
}
inline void store_be16(std::byte* to, std::uint16_t value) {
  value = __builtin_bswap16(value);
  std::memcpy(to, &value, sizeof value);
}

// The outer tag's VLAN. 0: untagged, or a priority tag. 802.1ad tags are of another space, and make a frame
// untagged here.
inline std::uint16_t vlan_of(std::span<const std::byte> front) {
  if (front.size() < kVlanTagOffset + 2 || load_be16(front.data() + kVlanTagOffset) != kVlanTpid) [[likely]] {
    return 0;
  }
  return front.size() < kTaggedHeaderBytes
             ? kBadVlan
             : static_cast<std::uint16_t>(load_be16(front.data() + kVlanTagOffset + 2) & 0xfff);
}

// An 802.1Q tag of no VLAN. At least an Ethernet header.
inline bool is_priority_tag(const std::byte* head, std::uint32_t head_bytes) {
  return load_be16(head + kVlanTagOffset) == kVlanTpid && vlan_of({head, head_bytes}) == 0;
}

// Puts a tag between the addresses and what follows them. The head moves to the front by kVlanTagBytes, which
// must be there to write to.
inline std::byte* insert_tag(std::byte* head, std::uint16_t tpid, std::uint16_t tci) {
  std::byte* moved = head - kVlanTagBytes;
  std::memmove(moved, head, kVlanTagOffset);
  store_be16(moved + kVlanTagOffset, tpid);
  store_be16(moved + kVlanTagOffset + 2, tci);
  return moved;
}

// What the peer of an access port sends becomes a frame of the VLAN. False, with nothing changed: it carries
// a tag of its own choice. An untagged head moves as by insert_tag(); a priority tag becomes a tag of the
// VLAN and keeps its priority.
inline bool push_access_tag(std::byte*& head, std::uint32_t& head_bytes, std::uint16_t vlan) {
  if (head_bytes < kVlanTagOffset + 2) {
    return false;
  }
  std::byte* tag = head + kVlanTagOffset;
  if (load_be16(tag) == kVlanTpid) [[unlikely]] {
    if (vlan_of(std::span<const std::byte>(head, head_bytes)) != 0) {
      return false;
    }
    store_be16(tag + 2, static_cast<std::uint16_t>(load_be16(tag + 2) | vlan));
    return true;
  }
  head = insert_tag(head, kVlanTpid, vlan);
  head_bytes += kVlanTagBytes;
  return true;
}

// A frame in the segments in which it is to be copied, one after the other.
struct FrameSegments {
  std::array<Segment, 3> front;  // any may be empty
  std::span<const Segment> rest;
  std::uint32_t bytes = 0;  // of all

  template <typename Visit>
  void for_each(Visit visit) const {
    std::ranges::for_each(front, visit);
    std::ranges::for_each(rest, visit);
  }
};

// Empty when it lies in several segments.
inline Segment body_of(const Packet& packet) {
  return {packet.body, packet.body != nullptr ? packet.body_bytes : 0};
}

inline FrameSegments segments_of(const Packet& packet) {
  return {.front = {Segment{packet.head, packet.head_bytes}, body_of(packet)},
          .rest = packet.segments(),
          .bytes = packet.bytes()};
}

// The same without its tag; only of a frame that has a whole one.
inline FrameSegments segments_without_tag(const Packet& packet) {
  constexpr std::uint32_t kBehind = kVlanTagOffset + kVlanTagBytes;
  const std::span<const std::byte> front = front_of(packet);
  return {.front = {Segment{front.data(), kVlanTagOffset},
                    Segment{front.data() + kBehind, static_cast<std::uint32_t>(front.size()) - kBehind},
                    packet.head_bytes != 0 ? body_of(packet) : Segment{}},
          .rest = packet.segments(),
          .bytes = packet.bytes() - kVlanTagBytes};
}

// What an access port's peer gets of a frame. False: it is of another VLAN. `vlan` 0: the port has none, and
// frames go as they are.
inline bool segments_for_access(const Packet& packet, std::uint16_t vlan, FrameSegments& segments) {
  if (vlan == 0) [[likely]] {
    segments = segments_of(packet);
    return true;
  }
  if (vlan_of(front_of(packet)) != vlan) {
    return false;
  }
  segments = segments_without_tag(packet);
  return true;
}

}  // namespace sluice
