#include "test/support/frame.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace sluice::test {

namespace {

void put16(Frame& frame, std::size_t at, std::size_t value) {
  frame[at] = static_cast<std::byte>(value >> 8);
  frame[at + 1] = static_cast<std::byte>(value & 0xff);
}

void put_address(Frame& frame, std::size_t at, const std::string& text) {
  in_addr address{};
  SLUICE_CHECK(::inet_pton(AF_INET, text.c_str(), &address) == 1, "bad IPv4 address {}", text);
  std::memcpy(frame.data() + at, &address, 4);
}

}  // namespace

std::string to_string(const Mac& mac) {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", mac[0], mac[1], mac[2], mac[3], mac[4],
                     mac[5]);
}

std::uint32_t checksum_add(std::span<const std::byte> bytes, std::uint32_t start) {
  std::uint32_t sum = start;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::uint32_t value = std::to_integer<std::uint32_t>(bytes[i]);
    sum += (i % 2 == 0) ? value << 8 : value;
  }
  return sum;
}

std::uint16_t checksum_finish(std::uint32_t sum) {
  while ((sum >> 16) != 0) {
    sum = (sum & 0xffff) + (sum >> 16);
  }
  return static_cast<std::uint16_t>(~sum & 0xffff);
}

Frame udp_frame(const UdpFrame& udp) {
  std::size_t ip = kIpOffset + (udp.vlan != 0 ? 4 : 0);
  std::size_t header = ip + 20, payload = header + 8;
  SLUICE_CHECK(udp.frame_bytes >= payload, "a UDP frame of {} bytes", udp.frame_bytes);
  Frame frame(udp.frame_bytes);
  std::memcpy(frame.data(), udp.destination.data(), 6);
  std::memcpy(frame.data() + 6, udp.source.data(), 6);
  if (udp.vlan != 0) {
    put16(frame, 12, 0x8100);
    put16(frame, 14, udp.vlan);
  }
  put16(frame, ip - 2, 0x0800);
  frame[ip] = std::byte{0x45};
  put16(frame, ip + 2, udp.frame_bytes - ip);
  frame[ip + 8] = std::byte{64};  // TTL
  frame[ip + 9] = std::byte{17};  // UDP
  put_address(frame, ip + 12, udp.source_ip);
  put_address(frame, ip + 16, udp.destination_ip);
  std::span<const std::byte> all(frame);
  put16(frame, ip + 10, checksum_finish(checksum_add(all.subspan(ip, 20))));
  std::size_t udp_bytes = udp.frame_bytes - header;
  put16(frame, header, udp.source_port);
  put16(frame, header + 2, udp.destination_port);
  put16(frame, header + 4, udp_bytes);
  for (std::size_t i = payload; i < frame.size(); ++i) {
    frame[i] = static_cast<std::byte>((i - payload) & 0xff);
  }
  // Pseudo header: addresses, protocol, length (RFC 768).
  std::uint32_t sum = checksum_add(all.subspan(ip + 12, 8), static_cast<std::uint32_t>(17 + udp_bytes));
  std::uint16_t checksum = checksum_finish(checksum_add(all.subspan(header), sum));
  put16(frame, header + 6, checksum == 0 ? 0xffff : checksum);
  return frame;
}

}  // namespace sluice::test
