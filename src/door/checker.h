// The checker: the door that takes descriptors which other doors have sent. It passes on to the daemon those
// of known kinds (base/peer_fd.h).
//
//   daemon -> checker   a byte, with the daemon's end of a door's channel, on which something waits
//   checker -> daemon   a CheckReport; behind it what the door has said, its descriptors with it
//                       then a byte: its own copies are closed, and it takes the next
//
// A door may have been taken over by its peer. So the daemon itself takes no message that comes with
// descriptors: whoever has a descriptor has to close it, and a close may wait for as long as the peer likes.
// The checker looks at no byte of a message, so no message takes it over. A checker that waits is left behind
// (door/checkers.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice {

// Most bytes of one datagram of a door; a longer one is cut there.
inline constexpr std::size_t kMostCheckedBytes = 512;

struct CheckReport {
  enum class What : std::uint32_t {
    kPassed,   // it follows
    kRefused,  // a descriptor was of no known kind; the checker ends with it
  } what = What::kPassed;
};

// The checker's life: it ends when the daemon closes the channel, or when it has refused a datagram.
void run_checker(int channel);

// One check: takes the first datagram in `from`, and reports on `channel` what it is. False: it was refused,
// or the daemon is gone.
bool check_next(int from, int channel);

}  // namespace sluice
