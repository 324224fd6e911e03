// The two ends of the channel between a guest port and the door that speaks with its front-end
// (door/doors.h).
//
//   front-end  <- bytes ->  door: transport.h  <- datagrams ->  daemon: GuestChannel  ->  session.h
//
// A datagram from the door is one whole message with a header that was judged, and the descriptors of it that
// are of a known kind; or how the connection ended. One to the door is one answer, as it goes to the
// front-end, or the question whether the door is held up (kAreYouThere). The door may wait; the daemon's end
// never does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/fd.h"
#include "door/doors.h"
#include "port/guest/vhost_user/message.h"
#include "port/guest/vhost_user/transport.h"

namespace sluice {

// The first datagram to the door.
struct GuestDoorOptions {
  std::uint64_t message_timeout_ns = 0;  // for the rest of a message whose beginning is here
};

// Answered by DoorReport::What::kHere. Shorter than any answer of vhost-user.
inline constexpr std::byte kAreYouThere{'?'};

// In front of what the door says.
struct DoorReport {
  enum class What : std::uint32_t {
    kMessage,  // a vhost_user_header and its payload follow
    kClosed,   // the front-end has closed the connection
    kFault,    // `fault`: nothing more of what it sends can be read
    kHere,     // nothing holds the door up
  } what = What::kMessage;
  VhostFault fault = VhostFault::kNone;
  // Bit i: descriptor i of the message was of no known kind. It is closed, and not among those that came
  // along.
  std::uint32_t refused_fds = 0;
};

// The door's life, in its process; returns when the front-end or the daemon is gone.
void run_guest_door(int channel, int peer);

// The daemon's end. Control thread.
class GuestChannel {
 public:
  GuestChannel(int channel, const GuestDoorOptions& options);  // the descriptor stays the caller's

  enum class Received : std::uint8_t {
    kMessage,
    kNotYet,   // the channel is empty
    kHere,     // the answer to ask_whether_there()
    kToCheck,  // descriptors come with the next one: Doors::check() has to take it, then take()
    kClosed,   // by the front-end, or the door is gone
    kFault,    // fault() says which; nothing more can be read
  };
  // At most one message. What the door says is judged like a peer's word: it may have been taken over by one.
  Received receive(VhostMessage& message);
  // What the checker says of one to be checked.
  Received take(Checked checked, VhostMessage& message);
  VhostFault fault() const { return fault_; }
  // A door that closes what its peer has sent may wait for ever, and then the end of the connection is not
  // heard.
  void ask_whether_there();

  // As those of VhostTransport.
  bool reply(std::uint32_t request, std::span<const std::byte> payload);
  bool flush();
  bool has_unsent() const { return !unsent_.empty(); }
  int fd() const { return channel_; }

 private:
  Received take_datagram(std::span<const std::byte> datagram, std::vector<PeerFd> came_along,
                         VhostMessage& message);
  Received take_message(std::span<const std::byte> datagram, const DoorReport& report,
                        std::vector<PeerFd> came_along, VhostMessage& message);
  Received give_up(VhostFault fault) {
    fault_ = fault;
    return Received::kFault;
  }

  int channel_;
  VhostFault fault_ = VhostFault::kNone;
  std::vector<std::vector<std::byte>> unsent_;  // answers
  std::size_t unsent_bytes_ = 0;
};

}  // namespace sluice
