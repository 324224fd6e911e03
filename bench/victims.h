// Who must not be held up by others, and how long what it asks for takes: an app that waits for packets, a
// front-end that waits for answers, an operator that waits for the daemon.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "bench/delays.h"
#include "bench/victim_app.h"
#include "test/support/veth.h"
#include "test/vhost/mock_front_end.h"

namespace sluice::bench {

// Measures from start() to stop(), on threads of its own, which have real-time priority where that is to be
// had: what is measured is how long the daemon takes, not how long a busy machine keeps its clients waiting.
class Victims {
 public:
  struct Places {
    std::string app_socket, guest_socket, control;
    std::uint16_t udp_port = 0;  // of the app
    std::uint64_t packets_per_second = 2000;
  };
  // Attaches all of them.
  static Result<std::unique_ptr<Victims>> attach(const test::VethPair& pair, const Places& places);
  ~Victims() { stop(); }
  Victims(const Victims&) = delete;

  void start();
  void stop();

  // After stop().
  Delays app, guest, control;

 private:
  Victims(const test::VethPair& pair, const Places& places) : pair_(pair), places_(places) {}
  void send();
  void receive();
  void ask_as_guest();
  void ask_as_operator();

  const test::VethPair& pair_;
  const Places places_;
  std::unique_ptr<VictimApp> port_;
  std::optional<test::FrontEnd> front_;
  std::optional<test::GuestRam> ram_;
  std::atomic<bool> stop_{false}, sent_all_{false};
  std::atomic<std::uint64_t> sent_{0};
  std::vector<std::thread> threads_;
};

}  // namespace sluice::bench
