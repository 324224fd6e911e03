#include "test/demo/app.h"

#include <signal.h>

#include <array>
#include <chrono>
#include <cstdio>

#include "sluice/sluice.hpp"
#include "test/demo/child.h"
#include "test/demo/measure.h"
#include "test/support/frame.h"
#include "test/support/live_frames.h"

namespace sluice::demo {

namespace {

constexpr std::chrono::milliseconds kLookForStop{50};

// The numbers on one queue rise by one; what is missing was lost, what does not rise came twice or out of
// turn.
struct SequenceCheck {
  std::uint64_t expected;
  std::uint64_t missing = 0, not_rising = 0;

  void see(std::uint64_t sequence) {
    if (sequence == expected || expected == Tally::kAny) {
      expected = sequence + 1;
    } else if (sequence > expected) {
      missing += sequence - expected;
      expected = sequence + 1;
    } else {
      ++not_rising;
    }
  }
};

}  // namespace

int receive_packets(const std::string& socket, const std::string& tally_path, unsigned cpu) {
  run_on(cpu);
  auto tally = SharedTally::open(tally_path);
  if (!tally) {
    std::fprintf(stderr, "%s\n", tally.error().message.c_str());
    return 1;
  }
  auto port = sluice::Port::attach(socket, {.timeout = kPatience});
  if (!port) {
    std::fprintf(stderr, "%s\n", port.error().message.c_str());
    return 1;
  }
  SequenceCheck check{.expected = (*tally)->first_sequence};
  std::uint64_t received = 0, bytes = 0;
  std::array<sluice::Packet, 64> packets;
  while (!(*tally)->stop.load(std::memory_order_relaxed)) {
    (*tally)->attaches.store(port->info().attaches, std::memory_order_relaxed);
    (*tally)->attached.store(port->attached(), std::memory_order_relaxed);
    const std::size_t count = port->receive_for(packets, kLookForStop);
    for (const sluice::Packet& packet : std::span(packets).first(count)) {
      bytes += packet.bytes().size();
      if (packet.bytes().size() >= test::kPayloadOffset + sizeof(std::uint64_t)) {
        check.see(test::sequence_of(packet.bytes().data()));
      }
    }
    received += count;
    (*tally)->bytes.store(bytes, std::memory_order_relaxed);
    (*tally)->missing.store(check.missing, std::memory_order_relaxed);
    (*tally)->not_rising.store(check.not_rising, std::memory_order_relaxed);
    (*tally)->received.store(received, std::memory_order_release);
  }
  return 0;
}

Result<App> App::start(const std::string& socket, unsigned cpu, std::uint64_t first_sequence) {
  auto tally = SharedTally::create();
  SLUICE_TRY(tally);
  (*tally)->first_sequence = first_sequence;
  auto process =
      test::Process::start(leashed(child_command("receive", {socket, tally->path(), std::to_string(cpu)})));
  SLUICE_TRY(process);
  return App(std::move(*tally), std::move(*process));
}

void App::kill() {
  process_.signal(SIGKILL);
  process_.wait();
}

std::string App::stop() {
  tally_->stop = true;
  return process_.wait().output;
}

}  // namespace sluice::demo
