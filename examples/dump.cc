// One line for each packet that arrives on a port, as tcpdump has it: dump dns -c 10
#include <sluice/sluice.hpp>

#include <arpa/inet.h>
#include <CLI/CLI.hpp>
#include <cstdio>

namespace {

using Bytes = std::span<const std::byte>;

constexpr auto u8 = [](Bytes b, std::size_t at) { return std::to_integer<unsigned>(b[at]); };
constexpr auto u16 = [](Bytes b, std::size_t at) { return u8(b, at) << 8 | u8(b, at + 1); };

std::string mac(Bytes b) {
  char text[18];
  std::snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", u8(b, 0), u8(b, 1), u8(b, 2), u8(b, 3),
                u8(b, 4), u8(b, 5));
  return text;
}

// "10.0.0.1.53 > 10.0.0.2.4711: UDP". `addresses`: source, then destination; `l4` begins behind the IP
// header.
std::string flow(int family, Bytes addresses, unsigned protocol, Bytes l4, bool first_fragment) {
  const bool ports = (protocol == 6 || protocol == 17) && first_fragment && l4.size() >= 4;
  auto end = [&](Bytes ip, std::size_t at) {
    char text[INET6_ADDRSTRLEN];
    return ::inet_ntop(family, ip.data(), text, sizeof(text)) +
           (ports ? "." + std::to_string(u16(l4, at)) : "");
  };
  return ", " + end(addresses, 0) + " > " + end(addresses.subspan(family == AF_INET ? 4 : 16), 2) +
         (protocol == 6    ? ": TCP"
          : protocol == 17 ? ": UDP"
                           : ": protocol " + std::to_string(protocol));
}

std::string describe(Bytes frame) {
  if (frame.size() < 14) {
    return "truncated";
  }
  std::string line = mac(frame.subspan(6)) + " > " + mac(frame);
  std::size_t at = 14;
  unsigned type = u16(frame, 12);
  for (; (type == 0x8100 || type == 0x88a8) && frame.size() >= at + 4; at += 4) {
    line += ", vlan " + std::to_string(u16(frame, at) & 0xfff);
    type = u16(frame, at + 2);
  }
  const Bytes ip = frame.subspan(at);
  if (type == 0x0800 && ip.size() >= 20 && ip.size() >= (u8(ip, 0) & 15) * 4) {
    return line + flow(AF_INET, ip.subspan(12), u8(ip, 9), ip.subspan((u8(ip, 0) & 15) * 4),
                       (u16(ip, 6) & 0x1fff) == 0);
  }
  if (type == 0x86dd && ip.size() >= 40) {
    return line + flow(AF_INET6, ip.subspan(8), u8(ip, 6), ip.subspan(40), true);
  }
  return line + (type == 0x0806 ? ", ARP" : ", type " + std::to_string(type));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Prints one line for each packet that arrives on a port of Sluice.");
  std::string name;
  std::uint64_t left = UINT64_MAX;
  app.add_option("port", name, "the port's name, or the path of its socket")->required();
  app.add_option("-c", left, "end after so many packets");
  CLI11_PARSE(app, argc, argv);
  auto port = sluice::Port::attach(name);
  if (!port) {
    std::fprintf(stderr, "dump: %s\n", port.error().message.c_str());
    return 1;
  }
  sluice::Packet packet;
  while (left-- != 0 && port->receive_for(std::span(&packet, 1), std::chrono::nanoseconds(-1)) == 1) {
    const std::string text = describe(packet.bytes());
    const double seconds = static_cast<double>(packet.timestamp_ns()) / 1e9;
    std::printf("%.6f %s, length %zu\n", seconds, text.c_str(), packet.bytes().size());
    std::fflush(stdout);
  }
}
