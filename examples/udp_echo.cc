// Answers UDP datagrams on one port with what they hold. ARP and everything else is left to the kernel, by a
// rule like:  match = "ip_proto udp dst_port 7"  to = "echo". The port needs `mac`, here the NIC's own.
//
//   udp_echo echo --port 7 --spin-us 20
#include <sluice/sluice.hpp>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <cstring>

namespace {

constexpr std::size_t kEthernet = 14, kIp = 20, kUdp = 8;

unsigned u8(std::span<const std::byte> b, std::size_t at) {
  return std::to_integer<unsigned>(b[at]);
}
unsigned u16(std::span<const std::byte> b, std::size_t at) {
  return u8(b, at) << 8 | u8(b, at + 1);
}

// A whole UDP datagram over IPv4 without options and fragments, for `udp_port`.
bool is_ours(std::span<const std::byte> frame, unsigned udp_port) {
  return frame.size() >= kEthernet + kIp + kUdp && u16(frame, 12) == 0x0800 && u8(frame, 14) == 0x45 &&
         (u16(frame, 20) & 0x3fff) == 0 && u8(frame, 23) == 17 && u16(frame, 36) == udp_port;
}

// The IP checksum is a sum over the swapped words, whose order does not matter: it stays valid (RFC 1071).
// UDP's may be half done: a sender on this machine leaves it to a NIC that is not there (veth). 0 says "none"
// (RFC 768).
void make_answer(std::byte* frame, const std::uint8_t (&source_mac)[6]) {
  std::memcpy(frame, frame + 6, 6);
  std::memcpy(frame + 6, source_mac, 6);
  std::swap_ranges(frame + 26, frame + 30, frame + 30);  // IP addresses
  std::swap_ranges(frame + 34, frame + 36, frame + 36);  // UDP ports
  frame[40] = frame[41] = std::byte{0};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Echoes UDP datagrams.");
  std::string name;
  unsigned udp_port = 7;
  app.add_option("port", name, "the port's name, or the path of its socket")->required();
  app.add_option("--port", udp_port, "the UDP port to answer on")
      ->check(CLI::Range(1, 65535))
      ->capture_default_str();
  sluice::AttachOptions options;
  app.add_option("--spin-us", options.spin_us, "how long to look for a datagram before sleeping")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  auto port = sluice::Port::attach(name, options);
  if (!port) {
    std::fprintf(stderr, "udp_echo: %s\n", port.error().message.c_str());
    return 1;
  }
  if (!port->info().can_send) {
    std::fprintf(stderr,
                 "udp_echo: port %s cannot send: give it `mac` and an uplink in the daemon's config\n",
                 name.c_str());
  }

  std::array<sluice::Packet, 64> packets;
  std::array<sluice::Frame, 64> frames;
  for (;;) {
    const std::size_t count = port->receive_for(packets, std::chrono::seconds(60));
    const sluice::Info info = port->info();
    const std::size_t room = port->reserve(std::span(frames).first(count));
    std::size_t used = 0;
    for (const sluice::Packet& packet : std::span(packets).first(count)) {
      // What finds no room is lost, as UDP may.
      if (!is_ours(packet.bytes(), udp_port) || used == room || packet.bytes().size() > frames[used].room) {
        continue;
      }
      sluice::Frame& frame = frames[used++];
      std::memcpy(frame.data, packet.bytes().data(), packet.bytes().size());
      make_answer(reinterpret_cast<std::byte*>(frame.data), info.source_mac);
      frame.length = static_cast<std::uint32_t>(packet.bytes().size());
    }
    port->commit(std::span(frames).first(used));
  }
}
