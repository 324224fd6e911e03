// LiveFrames: the load generator. BPF_PROG_RUN in live-frames mode makes frames inside the kernel and
// redirects them into the wire end of a veth: about 2.5 M packets/s from one core, and the number sent is
// exact.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/result.h"
#include "test/support/frame.h"
#include "test/support/net_ns.h"
#include "test/support/veth.h"

namespace sluice::test {

struct LiveFramesOptions {
  Frame frame;              // the template; UDP/IPv4 untagged where sequence or source_ports are wanted
  std::uint64_t count = 0;  // frames to send; 0: until stop()
  std::uint64_t packets_per_second = 0;  // 0: as fast as it goes
  std::optional<std::uint32_t> cpu;      // the generator's CPU; with several queues it also chooses the queue
  std::uint32_t batch = 64;              // frames that arrive at a time: sent between two softirqs, 1 .. 256
  bool sequence = true;                  // payload begins with a 64-bit sequence number, host byte order
  std::uint64_t first_sequence = 0;
  // Flow control: never more than this many in all. The receiver raises it as it receives, so that a test for
  // "nothing is lost" does not depend on who gets the CPU.
  const std::atomic<std::uint64_t>* allowed = nullptr;
  std::uint16_t first_source_port = 4000;
  std::uint16_t source_ports =
      0;  // frame i has source port first_source_port + i % source_ports; 0: the template's
};

class LiveFrames {
 public:
  // Sends on `wire`'s link `ifindex`: what arrives, arrives at its peer.
  static Result<std::unique_ptr<LiveFrames>> create(const NetNs& wire, int ifindex,
                                                    LiveFramesOptions options);
  // From the wire end of a pair to its NIC end.
  static Result<std::unique_ptr<LiveFrames>> create(const VethPair& pair, LiveFramesOptions options) {
    return create(pair.wire_ns(), pair.wire_ifindex(), std::move(options));
  }
  ~LiveFrames();  // stops
  LiveFrames(const LiveFrames&) = delete;

  void start();  // in a thread of its own
  bool running() const;
  std::uint64_t sent() const;  // until now
  // Waits until `count` frames are out / ends early. Both return how many were sent, and forget the thread:
  // start() again goes on with the next sequence number.
  Result<std::uint64_t> wait();
  Result<std::uint64_t> stop();
  // start() and wait().
  Result<std::uint64_t> run();
  // So many now, or a little fewer, by this thread, which is inside the wire's namespace: for one that sends
  // and receives in turn.
  Result<std::uint64_t> step(std::uint64_t frames);

 private:
  LiveFrames() = default;
  struct State;
  std::unique_ptr<State> state_;
};

// The sequence number in a received frame.
std::uint64_t sequence_of(const std::byte* frame);

}  // namespace sluice::test
