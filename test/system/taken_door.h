// A door that its peer has taken over: a sluice-door whose guest doors do what the front-end says
// (taken_door_program.cc). All that they are and may is as in the real one, which they are until they are
// told something else. Of the same program are the zygote, the undertaker and the checker, which are not the
// peer's to take over.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace sluice::test {

inline constexpr std::uint32_t kTakenOver = 0x6b'6e'74'00;  // no vhost-user request begins so

// What the front-end says instead of a message; the first word decides what the door is.
struct DoorOrder {
  std::uint32_t magic = kTakenOver;
  enum class What : std::uint32_t {
    kSay,     // `times`: `bytes` of `data` to the daemon, and the descriptors that came with this order
    kHold,    // hears and says nothing any more, whatever ends
    kEnd,     // ends
    kSignal,  // SIGKILL for everybody, by tgkill(2)
    kOwn,     // the same by fcntl(2): makes others the owners of a socket whose signal is SIGKILL
    kPassOn,  // its own channel to its front-end
    kWrite,   // `data` to the standard streams
    kTake,    // as much memory as it can have; goes on as a real door when that is less than 1 GiB
  } what = What::kSay;
  std::uint32_t times = 1;
  std::uint32_t bytes = 0;
  std::array<std::byte, 480> data{};
};
static_assert(sizeof(DoorOrder) <= 512);  // what FuseOrder has room for

}  // namespace sluice::test
