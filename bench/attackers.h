// Who attacks, and who is as busy without harm, in pairs. A part is played in a process of its own until it
// is killed: one that is cut off by the daemon connects again.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <span>
#include <string>

#include "base/fd.h"
#include "test/support/frame.h"

namespace sluice::bench {

inline constexpr test::Mac kAttackerMac{0x52, 0x54, 0, 0, 0, 0x01};

// What a part may use: ports that nobody else uses.
struct Ground {
  std::string guest_socket, app_socket;
  test::Mac wire_mac;  // where frames of its guest go
};

// Written by the part, read by who watches it: memory that both processes share.
struct Score {
  std::atomic<std::uint32_t> may_begin{0};
  std::atomic<std::uint64_t> operations{0};  // what one is, the part says
  std::atomic<std::uint64_t> sessions{0};    // 1: it was never cut off
};

using Part = void (*)(const Ground&, Score&);  // does not return

struct Case {
  const char* name;
  const char* harmless;  // what the harmless one does, in a few words
  Part play_harmless;
  const char* attack;
  Part play_attack;
  // What the wire sends to them meanwhile, frames a second.
  std::uint64_t frames_to_guest = 0, frames_to_app = 0;
};

// A new case is a row here and two functions.
std::span<const Case> cases();

// A part in a process of its own, which ends with this object and with this process, whatever way that ends.
// To be made while this process has one thread.
class Player {
 public:
  Player(Part part, const Ground& ground);
  ~Player();
  Player(const Player&) = delete;

  void begin() { score().may_begin = 1; }
  Score& score() const { return *reinterpret_cast<Score*>(shared_.data()); }
  bool running() const;
  void stop();

 private:
  Mapping shared_;
  pid_t pid_ = -1;
};

// Parts that are programs on libsluice, whose words are the daemon's too (attacker_apps.cc).
void receive_cheaply(const Ground&, Score&);
void receive_dearly(const Ground&, Score&);

// Makes what is called at `fd` dear for who calls: so many epoll sets look at it, under so many numbers.
// Never returns the descriptors.
void watch_often(int fd, int sets, int numbers);

}  // namespace sluice::bench
