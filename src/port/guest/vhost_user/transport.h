// Transport of vhost-user: bytes and descriptors of one stream socket become messages, answers become bytes.
// In the port's door (guest_door.h): taking descriptors from a peer may wait.
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/fd.h"
#include "port/guest/vhost_user/message.h"

namespace sluice {

// Answers that wait for a front-end that does not read: about a hundred. One more, and it is cut off (D6).
inline constexpr std::size_t kMaxUnreadBytes = 4096;

// The answer to `request` as it goes to the front-end.
std::vector<std::byte> encode_answer(std::uint32_t request, std::span<const std::byte> payload);

class VhostTransport {
 public:
  explicit VhostTransport(UniqueFd socket);  // non-blocking, SOCK_STREAM

  enum class Received : std::uint8_t {
    kMessage,  // one whole message, its syntax not judged but for the header
    kNotYet,   // the socket is empty
    kClosed,   // by the peer, or by an error of the socket
    kFault,    // fault() says which; nothing more can be read
  };
  // At most one message. Reads no byte of the next one: the kernel hands descriptors over with any byte of
  // what is read, and they must not end up with the wrong message.
  Received receive(VhostMessage& message);
  VhostFault fault() const { return fault_; }
  // Some bytes of a message are here, and the rest is not.
  bool in_message() const { return have_ > 0; }

  // Sends what encode_answer() made, or keeps what does not go at once. False: too much is kept.
  bool send(std::span<const std::byte> answer);
  // Sends what was kept. False: the socket is broken.
  bool flush();
  bool has_unsent() const { return !unsent_.empty(); }

  int fd() const { return socket_.get(); }

 private:
  enum class Step : std::uint8_t { kDone, kNotYet, kClosed, kFault };
  Step read_to(std::byte* place, std::size_t wanted);
  bool take_descriptors(const msghdr& header);
  Received give_up(VhostFault fault);

  UniqueFd socket_;
  // The message that is being read: header first, then payload; `have_` counts bytes of both.
  VhostMessage partial_;
  std::size_t have_ = 0;
  bool header_judged_ = false;
  VhostFault fault_ = VhostFault::kNone;
  std::vector<std::byte> unsent_;
};

}  // namespace sluice
