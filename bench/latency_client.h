// The client of `latency_bench`: one UDP request outstanding at a time, by a plain blocking socket.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "bench/delays.h"
#include "test/support/net_ns.h"

namespace sluice::bench {

// Where the time of a request goes, as far as the echo says it.
enum class Stage : std::uint8_t {
  kToWorker,   // sent, until Sluice's worker takes it from the NIC
  kToProgram,  // ... until the echo has it; for others than an app from its sending on
  kInProgram,  // ... until the echo gives the answer away
  kToWire,     // ... until the kernel has it on the client's side of the wire
  kToClient    // ... until the client has it
};
inline constexpr std::array<const char*, 5> kStageNames = {"to_worker", "to_program", "in_program", "to_wire",
                                                           "to_client"};

struct Answers {
  Delays whole;
  std::array<Delays, kStageNames.size()> stages;
  void add(const Answers& more);
  Answers evenly(std::size_t count) const;  // of each
};

class LatencyClient {
 public:
  // Its socket is in `wire`. `ip`: where the echo is.
  LatencyClient(const test::NetNs& wire, const std::string& ip);

  // One request and its answer, within a tenth of a second.
  bool ask(Answers* into = nullptr);
  // For so long, from a thread of its own on `cpu`, or wherever the kernel lets it run.
  enum class Pace : std::uint8_t {
    kClosed,   // the next request when the answer is there
    kOnePerMs  // the next one in the next millisecond
  };
  Answers run(Pace pace, double seconds, std::optional<std::uint32_t> cpu);

 private:
  bool receive(std::uint64_t sequence, std::uint64_t sent_ns, Answers* into);

  UniqueFd socket_;
  std::uint64_t sequence_ = 0;
  std::int64_t realtime_minus_monotonic_ns_ = 0;
};

}  // namespace sluice::bench
