// A door: a process that speaks with one peer of which nothing is proven yet.
//
// A peer can send what makes its receiver wait without a bound: descriptors of files that the peer itself
// serves, and sockets that linger. So the daemon neither reads nor closes such a peer's socket. It hands the
// socket to a door. The door reads, judges, and passes on messages that are whole and harmless. A door has no
// privilege, shares no file with the daemon, and can be killed. One that waits for ever harms nobody (D8).
//
//   daemon  --- asks --->  zygote  --- forks --->  door  <--- bytes, descriptors --->  peer
//     ^                                             |
//     +--- channel: whole messages, descriptors of known kinds (base/peer_fd.h) ------+
//     +------------ checker: takes messages with descriptors <----+
//
// A door reads hostile bytes, so the daemon believes it nothing. Descriptors reach the daemon by way of a
// process that has read no such byte (checker.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/peer_fd.h"
#include "base/result.h"

namespace sluice {

enum class DoorKind : std::uint32_t {
  kGuest,       // vhost-user: port/guest/vhost_user/guest_door.h
  kOneMessage,  // reads one message, as bytes: one_message.h
  kUndertaker,  // closes what it is sent: undertaker.h
  kChecker,     // takes descriptors from other doors: checker.h
};

// An open door. Dropping this object does not end the door: call Doors::end().
struct Door {
  std::uint32_t id = 0;
  UniqueFd channel;  // SOCK_SEQPACKET, non-blocking at this end; at its end the door ends
  std::string who;   // whose it is, for the log: a port's name
};

// A message with descriptors that a door has sent, once a checker has taken it.
struct Checked {
  enum class What : std::uint8_t {
    kPassed,   // it is in `bytes` and `fds`
    kRefused,  // a descriptor was of no known kind, or held the checker up: trust the door no more
    kLost,     // no checker could be had, or it died
  } what = What::kLost;
  std::vector<std::byte> bytes;
  std::vector<PeerFd> fds;
};
struct CheckRequest {
  std::string who;   // whose door it is
  int channel = -1;  // the daemon's end; the caller's, open until `done` or cancel_check()
  std::function<void(Checked)> done;
  std::function<void()> no_memory;  // instead, or when `done` threw std::bad_alloc
};
using CheckId = std::uint64_t;  // never 0

class Doors {
 public:
  virtual ~Doors() = default;
  // Hands `peer` over. Errors: no process can be had; too many doors of `who`, or of all, are stuck.
  virtual Result<Door> open(DoorKind kind, const std::string& who, UniqueFd peer) = 0;
  // The daemon is done with it; it is watched until it is gone.
  virtual void end(Door door) = 0;
  // Closes a socket where that may take its time: descriptors that wait in it are closed with it.
  virtual void bury(UniqueFd socket) = 0;
  // Has a checker take the first datagram in a door's channel, which comes with descriptors
  // (base/fd_passing.h). `done` is called once, from the loop, never from here.
  virtual CheckId check(CheckRequest request) = 0;
  virtual void cancel_check(CheckId id) = 0;  // `done` is not called
};

// A socket on which a peer may have sent descriptors that nobody has read. This process never closes it.
class PeerSocket {
 public:
  PeerSocket() = default;
  PeerSocket(UniqueFd fd, Doors& doors) : fd_(std::move(fd)), doors_(&doors) {}
  // Without doors: one to which the kernel lets nobody send descriptors, so that it is closed here.
  PeerSocket(UniqueFd fd, Doors* doors) : fd_(std::move(fd)), doors_(doors) {}
  PeerSocket(PeerSocket&&) noexcept = default;
  PeerSocket& operator=(PeerSocket&& other) noexcept {
    reset();
    fd_ = std::move(other.fd_);
    doors_ = other.doors_;
    return *this;
  }
  ~PeerSocket() { reset(); }

  int get() const { return fd_.get(); }
  explicit operator bool() const { return static_cast<bool>(fd_); }
  UniqueFd release() { return std::move(fd_); }
  Result<UniqueFd> duplicate() const { return fd_.duplicate(); }
  void reset() {
    if (fd_ && doors_ != nullptr) {
      doors_->bury(std::move(fd_));
    }
    fd_.reset();
  }

 private:
  UniqueFd fd_;
  Doors* doors_ = nullptr;
};

}  // namespace sluice
