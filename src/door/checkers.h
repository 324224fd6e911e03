// Checkers: the daemon's side of its checkers (checker.h): one that takes work, and those that are late with
// theirs. Control thread.
//
// A slow check delays its own door alone, since another checker takes over for the others. A check may not
// come to an end, or nobody may wait for it any more. Its checker is then ended as a door of the port that it
// worked for, and counts among that port's ending and stuck doors, which are bounded (D6).
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <optional>
#include <string>

#include "base/event_loop.h"
#include "door/doors.h"
#include "stats/counter.h"

namespace sluice {

struct CheckTimes {
  std::uint64_t soon_ns = 25'000'000;     // how long others wait behind one check
  std::uint64_t ends_ns = 5'000'000'000;  // how long its own door waits
  std::uint64_t idle_ns = 2'000'000'000;  // a checker without work for so long ends
};

class Checkers {
 public:
  Checkers(Doors& doors, EventLoop& loop, const CheckTimes& times = {})
      : times_(times), doors_(doors), loop_(loop) {}
  ~Checkers();  // nobody is told
  Checkers(const Checkers&) = delete;

  // As Doors::check() and Doors::cancel_check().
  CheckId check(CheckRequest request);
  void cancel(CheckId id);

  // checks checks_refused checkers
  void visit(CounterVisitor& visitor) const;

 private:
  struct Work {
    CheckId id = 0;
    CheckRequest request;
    std::uint64_t since_ns = 0;
  };
  struct Checker {
    Door door;
    std::uint64_t since_ns = 0;  // it has this work, or none
    bool busy = false;           // has not said yet that it takes the next
    std::string who;             // whose work it has had last
    std::optional<Work> work;    // that is not answered
  };
  using Place = std::list<Checker>::iterator;

  void give_work();
  Place start();
  void on_checker(Place checker);
  void on_free(Place checker);
  void answer(Work work, Checked checked);
  void drop(Place checker, Checked::What why, std::string blamed);
  void watch();
  void tick();
  void drop_who_does_not_end(std::uint64_t now);
  void give_up_waiting(std::uint64_t now);

  const CheckTimes times_;
  Doors& doors_;
  EventLoop& loop_;
  EventLoop::TimerId timer_ = 0;
  CheckId last_id_ = 0;
  std::deque<Work> waiting_;
  std::list<Checker> checkers_;
  Place present_ = checkers_.end();  // takes the next work
  Counter checks_, refused_;
};

// Reads what a checker has said, on the daemon's end of its channel.
enum class CheckerSaid : std::uint8_t { kNothing, kChecked, kFree, kEnd };
CheckerSaid hear_checker(int channel, Checked& checked);

}  // namespace sluice
