#include "test/guest/echo.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <random>

#include "test/support/eventually.h"
#include "test/system/ends.h"

namespace sluice::test {

namespace {

constexpr std::size_t kRunOffset = kPayloadOffset + sizeof(std::uint64_t);  // behind the sequence number

// What frame i of a run is, sent and come back.
class Frames {
 public:
  Frames(const Wire& wire, const EchoOptions& options) : options_(options), random_(options.seed) {
    udp_.destination = options.guest;
    udp_.source = wire.mac;
    // Nobody's: what comes back is for the test alone, not for the wire's own stack.
    udp_.source_ip = "10.99.0.1";
    udp_.destination_ip = "10.99.0.2";
    static std::uint64_t runs = 0;
    run_ = ++runs;
  }

  Frame make(std::uint64_t sequence) {
    udp_.source_port = static_cast<std::uint16_t>(4000 + sequence % options_.flows);
    udp_.frame_bytes = std::uniform_int_distribution(options_.shortest, options_.longest)(random_);
    Frame frame = udp_frame(udp_);
    for (std::size_t i = kPayloadOffset; i < frame.size(); ++i) {
      frame[i] = static_cast<std::byte>(random_());
    }
    std::memcpy(frame.data() + kPayloadOffset, &sequence, sizeof(sequence));
    std::memcpy(frame.data() + kRunOffset, &run_, sizeof(run_));
    return frame;
  }

  static Frame come_back(Frame frame) {
    std::swap_ranges(frame.begin(), frame.begin() + 6, frame.begin() + 6);
    return frame;
  }

  // One of this run, on its way back?
  bool is_ours(const Frame& frame) const {
    return frame.size() >= kRunOffset + sizeof(run_) &&
           std::memcmp(frame.data(), udp_.source.data(), 6) == 0 &&
           std::memcmp(frame.data() + 6, udp_.destination.data(), 6) == 0 &&
           std::memcmp(frame.data() + kRunOffset, &run_, sizeof(run_)) == 0;
  }

 private:
  const EchoOptions& options_;
  std::mt19937_64 random_;
  UdpFrame udp_;
  std::uint64_t run_ = 0;
};

std::uint64_t number_in(const Frame& frame) {
  std::uint64_t sequence;
  std::memcpy(&sequence, frame.data() + kPayloadOffset, sizeof(sequence));
  return sequence;
}

}  // namespace

std::string EchoResult::text() const {
  return fmt::format("sent {} returned {} wrong {} out of order {}", sent, returned, wrong, disordered);
}

EchoResult echo(const Wire& wire, const EchoOptions& options) {
  EchoResult result;
  Tap tap(*wire.ns, wire.ifindex);
  Frames frames(wire, options);
  std::map<std::uint64_t, std::uint64_t> last_of_flow;
  while (result.sent < options.frames) {
    std::map<std::uint64_t, Frame> expected;
    const std::uint64_t end = std::min(result.sent + options.window, options.frames);
    for (; result.sent < end; ++result.sent) {
      const Frame frame = frames.make(result.sent);
      int error = 0;
      if (!tap.send(frame, error)) {
        return result;
      }
      expected[result.sent] = Frames::come_back(frame);
    }
    bool all = eventually([&] {
      for (Frame frame = tap.next(); !frame.empty(); frame = tap.next()) {
        if (!frames.is_ours(frame)) {
          continue;
        }
        const std::uint64_t sequence = number_in(frame);
        auto sent = expected.find(sequence);
        if (sent == expected.end() || sent->second != frame) {
          ++result.wrong;
          continue;
        }
        expected.erase(sent);
        ++result.returned;
        auto [last, first] = last_of_flow.try_emplace(sequence % options.flows, sequence);
        result.disordered += !first && sequence < last->second ? 1 : 0;
        last->second = sequence;
      }
      return expected.empty();
    });
    if (!all) {
      return result;
    }
  }
  return result;
}

bool echo_works(const Wire& wire, const EchoOptions& options) {
  Tap tap(*wire.ns, wire.ifindex);
  Frames frames(wire, options);
  std::uint64_t sequence = 0;
  return eventually([&] {
    int error = 0;
    tap.send(frames.make(sequence++), error);
    for (Frame frame = tap.next(); !frame.empty(); frame = tap.next()) {
      if (frames.is_ours(frame)) {
        return true;
      }
    }
    return false;
  });
}

}  // namespace sluice::test
