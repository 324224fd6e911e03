// For tests and benches: a frame, header by header. Lengths and types of the headers around are right unless
// set otherwise.
#pragma once

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <string>
#include <vector>

namespace sluice::testing {

using Bytes = std::vector<std::uint8_t>;

inline void put16(Bytes& frame, std::size_t at, std::uint32_t value) {
  frame[at] = static_cast<std::uint8_t>(value >> 8);
  frame[at + 1] = static_cast<std::uint8_t>(value);
}

class PacketBuilder {
 public:
  PacketBuilder() { frame_ = {0x02, 0, 0, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0x02, 0, 0}; }
  PacketBuilder& macs(std::array<std::uint8_t, 6> destination, std::array<std::uint8_t, 6> source) {
    std::copy(destination.begin(), destination.end(), frame_.begin());
    std::copy(source.begin(), source.end(), frame_.begin() + 6);
    return *this;
  }
  // Call in the order of the wire: outer tag first.
  PacketBuilder& tag(std::uint16_t vlan, std::uint16_t tpid = 0x8100) {
    put16(frame_, type_at_, tpid);
    append({static_cast<std::uint8_t>(vlan >> 8), static_cast<std::uint8_t>(vlan), 0, 0});
    type_at_ = frame_.size() - 2;
    return *this;
  }
  PacketBuilder& type(std::uint16_t type) {
    put16(frame_, type_at_, type);
    return *this;
  }
  // `options`: bytes of them, a multiple of 4. `fragment`: the flags and offset field.
  PacketBuilder& ipv4(const char* source, const char* destination, std::size_t options = 0,
                      std::uint16_t fragment = 0) {
    type(0x0800);
    ip_at_ = frame_.size();
    append({static_cast<std::uint8_t>(0x45 + options / 4), 0, 0, 0, 0, 1, 0, 0, 64, 59, 0, 0});
    put16(frame_, ip_at_ + 6, fragment);
    append_address(AF_INET, source);
    append_address(AF_INET, destination);
    frame_.resize(frame_.size() + options, 1);  // no-operation options
    next_at_ = ip_at_ + 9;
    return *this;
  }
  PacketBuilder& ipv6(const char* source, const char* destination) {
    type(0x86dd);
    ip_at_ = frame_.size();
    v6_ = true;
    append({0x60, 0, 0, 0, 0, 0, 59, 64});
    append_address(AF_INET6, source);
    append_address(AF_INET6, destination);
    next_at_ = ip_at_ + 6;
    return *this;
  }
  // An IPv6 extension header of `bytes` (a multiple of 8; of 4 for AH, 51).
  PacketBuilder& extension(std::uint8_t protocol, std::size_t bytes = 8) {
    frame_[next_at_] = protocol;
    next_at_ = frame_.size();
    frame_.resize(frame_.size() + bytes);
    frame_[next_at_] = 59;
    frame_[next_at_ + 1] = static_cast<std::uint8_t>(protocol == 51 ? bytes / 4 - 2 : bytes / 8 - 1);
    return *this;
  }
  PacketBuilder& fragment(std::uint16_t offset_and_more) {
    extension(44);
    frame_[next_at_ + 1] = 0;
    put16(frame_, next_at_ + 2, offset_and_more);
    return *this;
  }
  PacketBuilder& proto(std::uint8_t protocol) {
    frame_[next_at_] = protocol;
    return *this;
  }
  PacketBuilder& udp(std::uint16_t source, std::uint16_t destination) {
    return l4(17, source, destination, 8);
  }
  PacketBuilder& tcp(std::uint16_t source, std::uint16_t destination) {
    return l4(6, source, destination, 20);
  }
  PacketBuilder& sctp(std::uint16_t source, std::uint16_t destination) {
    return l4(132, source, destination, 12);
  }
  PacketBuilder& icmp(std::uint8_t protocol = 1) { return proto(protocol).payload(8); }
  PacketBuilder& payload(std::size_t bytes, std::uint8_t value = 0xa5) {
    frame_.resize(frame_.size() + bytes, value);
    return *this;
  }
  // Ends the IP packet, then pads the frame.
  Bytes build(std::size_t padded_to = 0) {
    if (ip_at_ != 0) {
      std::size_t length = frame_.size() - ip_at_;
      v6_ ? put16(frame_, ip_at_ + 4, static_cast<std::uint32_t>(length - 40))
          : put16(frame_, ip_at_ + 2, static_cast<std::uint32_t>(length));
    }
    if (frame_.size() < padded_to) {
      frame_.resize(padded_to);
    }
    return frame_;
  }

 private:
  PacketBuilder& l4(std::uint8_t protocol, std::uint16_t source, std::uint16_t destination,
                    std::size_t bytes) {
    proto(protocol);
    std::size_t at = frame_.size();
    frame_.resize(at + bytes);
    put16(frame_, at, source);
    put16(frame_, at + 2, destination);
    return *this;
  }
  void append(std::initializer_list<std::uint8_t> bytes) { frame_.insert(frame_.end(), bytes); }
  void append_address(int family, const char* text) {
    std::array<std::uint8_t, 16> bytes{};
    if (::inet_pton(family, text, bytes.data()) != 1) {
      std::abort();
    }
    frame_.insert(frame_.end(), bytes.begin(), bytes.begin() + (family == AF_INET ? 4 : 16));
  }

  Bytes frame_;
  std::size_t type_at_ = 12;
  std::size_t ip_at_ = 0;
  std::size_t next_at_ = 0;
  bool v6_ = false;
};

}  // namespace sluice::testing
