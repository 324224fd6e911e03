// The door that reads one message of a peer's socket for the daemon (doors.h), and passes on its bytes alone.
// It is for kernels that cannot keep descriptors off a socket. The door closes descriptors that came along.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

// Longer ones are cut there.
inline constexpr std::size_t kMostMessageBytes = 512;

// In front of the bytes.
struct MessageReport {
  enum class What : std::uint32_t {
    kNotYet,  // there was none
    kClosed,  // nor will there be
    kRead,
  } what = What::kNotYet;
  std::uint32_t had_descriptors = 0;
};

// The door's life: reads once, without waiting, and says what there was.
void run_message_door(int channel, int peer);

// The daemon's end. False: the door has not said anything yet.
struct OneMessage {
  MessageReport report;
  std::vector<std::byte> bytes;
};
bool hear_message_door(int channel, OneMessage& message);

}  // namespace sluice
