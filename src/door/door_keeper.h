// DoorKeeper: the daemon's side of its doors (doors.h): starts the zygote, has doors made, and watches those
// that are to end. Control thread.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"
#include "door/checkers.h"
#include "door/doors.h"
#include "door/zygote.h"
#include "stats/counter.h"

namespace sluice {

// Stuck doors were killed and do not end, since they wait in the kernel (D6). A port with so many of them, or
// a daemon with so many in all, gets no new door until some have ended.
inline constexpr std::uint32_t kMostStuckDoorsOfOne = 4;
inline constexpr std::uint32_t kMostStuckDoors = 64;
// Doors of one port that are to end, stuck or not yet. A peer that comes and goes faster than they end waits.
inline constexpr std::size_t kMostEndingDoorsOfOne = 16;
// How long a door has to end by itself, and then to die.
inline constexpr std::uint64_t kDoorEndsNs = 1'000'000'000;
// Sockets that wait to be closed. At so many an undertaker that takes no more is killed, and its sockets go
// with it, so the daemon never holds more of them.
inline constexpr std::size_t kMostUnburied = 256;

class DoorKeeper final : public Doors {
 public:
  // The program that is the zygote: beside this one, else where the build installs it.
  static std::string default_program();
  // Starts the zygote. Before the process has threads, descriptors or privileges that it should not inherit.
  static Result<std::unique_ptr<DoorKeeper>> start(const std::string& program);
  ~DoorKeeper() override;  // every door sees the end of its channel; nobody is waited for

  // Watches doors that are to end, until stop_watching(). The loop must live until then.
  // As long as this object lives, it buries descriptors (base/burial.h).
  void watch_on(EventLoop& loop);
  void stop_watching();

  Result<Door> open(DoorKind kind, const std::string& who, UniqueFd peer) override;
  void end(Door door) override;
  void bury(UniqueFd socket) override;
  CheckId check(CheckRequest request) override;
  void cancel_check(CheckId id) override;

  std::uint32_t stuck(const std::string& who) const;
  // doors_opened doors_ending doors_stuck doors_killed buried unburied zygotes checks ...
  void visit(CounterVisitor& visitor) const;

 private:
  // A door whose channel is shut down, until it is gone.
  struct Ending {
    Door door;
    std::uint64_t since_ns = 0;
    bool killed = false, stuck = false;
  };
  struct Undertaker {
    Door door;
    std::deque<std::size_t> under_way;  // sockets per datagram that was sent and is not answered for
    std::uint64_t heard_since_ns = 0;   // its last answer, or when it got work
    bool owed_word = false;             // that ours are closed
  };

  explicit DoorKeeper(std::string program) : program_(std::move(program)) {}
  Result<void> start_zygote();
  Result<UniqueFd> ask_for(DoorKind kind, std::uint32_t id, int peer);
  void kill(std::uint32_t id);
  Result<void> need_room_for(const std::string& who);
  std::size_t ending(const std::string& who) const;
  void watch();
  void tick();
  void look_at_endings(std::uint64_t now);
  void look_at_undertaker(std::uint64_t now);
  void bury_more();
  bool has_undertaker();
  std::uint32_t stuck_for_ports() const;
  void drop_undertaker();

  const std::string program_;
  EventLoop* loop_ = nullptr;
  EventLoop::TimerId timer_ = 0;
  UniqueFd zygote_;
  std::uint32_t last_id_ = 0;
  std::list<Ending> ending_;
  std::unique_ptr<Undertaker> undertaker_;
  std::unique_ptr<Checkers> checkers_;  // while ends are watched
  std::deque<UniqueFd> unburied_;
  std::uint32_t stuck_ = 0;
  std::map<std::string, std::uint32_t> stuck_of_;
  Counter opened_, killed_, buried_, zygotes_;
};

}  // namespace sluice
