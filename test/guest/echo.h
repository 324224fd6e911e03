// Echo: frames from the wire through the NIC to a guest that sends each one back (testpmd, macswap). What
// comes back is compared with what was sent, byte by byte.
#pragma once

#include <cstdint>

#include "test/support/frame.h"
#include "test/support/veth.h"

namespace sluice::test {

// Where frames are put in and come out: a link whose other end is the NIC.
struct Wire {
  Wire(const NetNs& in, int index, const Mac& address) : ns(&in), ifindex(index), mac(address) {}
  Wire(const VethPair& pair) : Wire(pair.wire_ns(), pair.wire_ifindex(), pair.options().wire_mac) {}
  const NetNs* ns;
  int ifindex;
  Mac mac;
};

struct EchoOptions {
  Mac guest{0x52, 0x54, 0, 0, 0, 1};
  std::uint64_t frames = 4'000;
  // So many are on their way at one time: fewer than any ring on it holds, so nothing may be lost.
  std::uint64_t window = 64;
  std::uint16_t flows = 1;  // UDP source ports; frames of one flow come back in the order they were sent
  std::size_t shortest = 60, longest = 1514;
  std::uint64_t seed = 1;
};

struct EchoResult {
  std::uint64_t sent = 0, returned = 0, wrong = 0, disordered = 0;
  bool perfect() const { return sent > 0 && returned == sent && wrong == 0 && disordered == 0; }
  std::string text() const;
};

// Ends early when a window does not come back.
EchoResult echo(const Wire& wire, const EchoOptions& options);
// One frame now and then until one comes back: the way is there.
bool echo_works(const Wire& wire, const EchoOptions& options = {});

}  // namespace sluice::test
