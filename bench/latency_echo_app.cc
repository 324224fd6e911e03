// Apart, for libsluice's words are the daemon's too. The loop is that of examples/udp_echo.cc.
#include <array>
#include <chrono>
#include <cstring>

#include "base/clock.h"
#include "bench/latency_echo.h"
#include "bench/latency_frame.h"

#include "sluice/sluice.hpp"

namespace sluice::bench {

std::string echo_on_port(const std::string& path, std::uint32_t spin_us) {
  AttachOptions options;
  options.spin_us = spin_us;
  auto port = Port::attach(path, options);
  if (!port) {
    return port.error().message;
  }
  std::array<Packet, 64> packets;
  std::array<Frame, 64> frames;
  for (;;) {
    const std::size_t count = port->receive_for(packets, std::chrono::seconds(60));
    const std::uint64_t received = now_ns();
    const std::size_t room = port->reserve(std::span(frames).first(count));
    std::size_t used = 0;
    for (const Packet& packet : std::span(packets).first(count)) {
      const std::size_t bytes = packet.bytes().size();
      if (used == room || bytes > frames[used].room) {
        continue;
      }
      auto* data = reinterpret_cast<std::byte*>(frames[used].data);
      std::memcpy(data, packet.bytes().data(), bytes);
      if (!turn_around({data, bytes})) {
        continue;
      }
      stamp({data + kUdpPayload, bytes - kUdpPayload}, packet.timestamp_ns(), received, now_ns());
      frames[used++].length = static_cast<std::uint32_t>(bytes);
    }
    port->commit(std::span(frames).first(used));
  }
}

}  // namespace sluice::bench
