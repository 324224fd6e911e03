// Frames that tests tell apart by a number, and waiting for what another thread or process does.
#pragma once

#include <poll.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "base/clock.h"
#include "port/copy_bytes.h"

namespace sluice {

using Bytes = std::vector<std::byte>;

// Broadcast source and destination mean nothing to a lane; the number stands in bytes 14 .. 17.
inline Bytes numbered_frame(std::uint32_t number, std::size_t bytes) {
  Bytes frame(bytes);
  for (std::size_t i = 0; i < bytes; ++i) {
    frame[i] = static_cast<std::byte>(number * 31 + i);
  }
  constexpr std::array<std::uint8_t, 14> header{2, 0, 0, 0, 0, 2,    2,
                                                0, 0, 0, 0, 1, 0x88, 0xb5};  // IEEE 802 local experiment
  for (std::size_t i = 0; i < header.size(); ++i) {
    frame[i] = std::byte{header[i]};
  }
  for (std::size_t i = 0; i < 4; ++i) {
    frame[14 + i] = static_cast<std::byte>(number >> (8 * i));
  }
  return frame;
}

inline Bytes bytes_of(const Packet& packet) {
  Bytes bytes(packet.bytes());
  copy_frame(bytes.data(), packet);
  return bytes;
}

inline std::uint32_t below(std::mt19937& random, std::uint32_t bound) {
  return static_cast<std::uint32_t>(random() % bound);
}

// A peer's frame: a head, and a body in as many segments as it is told to, each in memory of its own, so that
// AddressSanitizer sees a read behind any of them.
class ScatteredFrame {
 public:
  ScatteredFrame(const Bytes& frame, std::uint16_t head_bytes, std::uint32_t segments, std::mt19937& random)
      : head_(frame.begin(), frame.begin() + head_bytes) {
    auto at = frame.begin() + head_bytes;
    for (std::uint32_t left = segments; left > 0 && at != frame.end(); --left) {
      const auto bytes_left = static_cast<std::uint32_t>(frame.end() - at);
      const std::uint32_t most = bytes_left - std::min(bytes_left - 1, left - 1);
      const std::uint32_t usual = std::min(most, 2 * bytes_left / left + 1);
      const std::uint32_t bytes = left == 1 ? bytes_left : 1 + below(random, usual);
      parts_.emplace_back(at, at + bytes);
      segments_.push_back({parts_.back().data(), bytes});
      at += bytes;
    }
    if (segments_.size() > 1) {
      extra_.segments = segments_;
    }
    packet_ = Packet{.body = segments_.size() == 1 ? segments_.front().data : nullptr,
                     .head = head_.data(),
                     .extra = segments_.size() > 1 ? &extra_ : nullptr,
                     .body_bytes = static_cast<std::uint32_t>(frame.size()) - head_bytes,
                     .head_bytes = head_bytes};
  }
  ScatteredFrame(const ScatteredFrame&) = delete;
  ScatteredFrame& operator=(const ScatteredFrame&) = delete;

  const Packet& packet() const { return packet_; }

 private:
  Bytes head_;
  std::vector<Bytes> parts_;
  std::vector<Segment> segments_;
  PacketExtra extra_;
  Packet packet_;
};

inline constexpr std::uint64_t kConformanceDeadlineNs = 5'000'000'000;

// Until `done` is true; false at the deadline.
template <typename Done>
bool wait_until(Done done) {
  const std::uint64_t deadline = now_ns() + kConformanceDeadlineNs;
  while (!done()) {
    if (now_ns() > deadline) {
      return false;
    }
    ::sched_yield();
  }
  return true;
}

inline bool readable(int fd, int timeout_ms) {
  pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&entry, 1, timeout_ms) == 1;
}

}  // namespace sluice
