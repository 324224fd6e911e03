#include "bench/victim_app.h"

#include <array>
#include <chrono>
#include <cstring>

#include "base/clock.h"
#include "test/support/frame.h"

#include "sluice/sluice.hpp"

namespace sluice::bench {
namespace {

constexpr std::chrono::milliseconds kTurn{5};

class Receiver : public VictimApp {
 public:
  explicit Receiver(Port port) : port_(std::move(port)) {}

  void receive(std::vector<std::uint64_t>& delays) override {
    const std::size_t count = port_.receive_for(packets_, kTurn);
    const std::uint64_t now = now_ns();
    for (const Packet& packet : std::span(packets_).first(count)) {
      std::uint64_t sent = 0;
      if (packet.bytes().size() >= test::kPayloadOffset + sizeof sent) {
        std::memcpy(&sent, packet.bytes().data() + test::kPayloadOffset, sizeof sent);
        delays.push_back(now - sent);
      }
    }
  }

 private:
  Port port_;
  std::array<Packet, 64> packets_;
};

}  // namespace

std::unique_ptr<VictimApp> attach_victim_app(const std::string& socket, std::string& why) {
  AttachOptions options;
  options.client_name = "victim";
  options.timeout = std::chrono::seconds(30);
  auto port = Port::attach(socket, options);
  if (!port) {
    why = port.error().message;
    return nullptr;
  }
  return std::make_unique<Receiver>(std::move(*port));
}

}  // namespace sluice::bench
