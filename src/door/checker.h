// The checker: the door that takes descriptors which other doors have sent, and passes on to the daemon those
// of known kinds (base/peer_fd.h).
//
//   daemon -> checker   a byte, with the daemon's end of a door's channel, on which something waits
//   checker -> daemon   a CheckReport; behind it what the door has said, its descriptors with it
//                       then a byte: its own copies are closed, and it takes the next
//
// A door may have been taken over by its peer. So the daemon takes nothing from one that descriptors come
// with: to have them is to have to close them, and that may wait for as long as the peer likes. The checker
// looks at no byte, so none takes it over. When it waits it is left behind (door/checkers.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice {

// Of what a door says in one datagram; a longer one is cut there.
inline constexpr std::size_t kMostCheckedBytes = 512;

struct CheckReport {
  enum class What : std::uint32_t {
    kPassed,   // it follows
    kRefused,  // a descriptor was of no known kind; the checker ends with it
  } what = What::kPassed;
};

// The checker's life: until the daemon closes the channel, or what it has taken is refused.
void run_checker(int channel);

// One check: takes the datagram that stands first in `from`, and says on `channel` what it is. False: it was
// refused, or the daemon is gone.
bool check_next(int from, int channel);

}  // namespace sluice
