// Doors as threads of the test's own process: what a door does, without the process around it. For tests of
// what stands at the daemon's end of the channel.
#pragma once

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>
#include <exception>
#include <map>
#include <new>
#include <string>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/event_loop.h"
#include "door/checker.h"
#include "door/checkers.h"
#include "door/doors.h"
#include "door/one_message.h"
#include "port/guest/vhost_user/guest_door.h"

namespace sluice::test {

class ThreadDoors final : public Doors {
 public:
  // With the loop on which checks are answered, which outlives this.
  explicit ThreadDoors(EventLoop* loop = nullptr) : loop_(loop) {}
  ~ThreadDoors() override {
    for (auto& [id, thread] : threads_) {
      thread.join();
    }
  }

  Result<Door> open(DoorKind kind, const std::string& who, UniqueFd peer) override {
    SLUICE_CHECK(kind == DoorKind::kGuest || kind == DoorKind::kOneMessage);
    int ends[2];
    SLUICE_CHECK(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0, "errno {}", errno);
    SLUICE_CHECK(::fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0, "errno {}", errno);
    const std::uint32_t id = ++last_id_;
    threads_[id] = std::thread([kind, channel = ends[1], socket = peer.release()] {
      if (kind == DoorKind::kGuest) {
        run_guest_door(channel, socket);
      } else {
        run_message_door(channel, socket);
        ::close(socket);
      }
      ::close(channel);
    });
    return Door{.id = id, .channel = UniqueFd(ends[0]), .who = who};
  }
  // Returns when the door has ended, so that what it held is closed.
  void end(Door door) override {
    door.channel.reset();
    threads_.at(door.id).join();
    threads_.erase(door.id);
  }
  void bury(UniqueFd socket) override { socket.reset(); }

  // The checker's own code, on this thread: what tests send does not wait.
  CheckId check(CheckRequest request) override {
    return loop_->once(0, [request = std::move(request)] {
      int ends[2];
      SLUICE_CHECK(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0, "errno {}", errno);
      const UniqueFd ours(ends[0]), checkers(ends[1]);
      (void)check_next(request.channel, checkers.get());
      Checked checked;
      SLUICE_CHECK(hear_checker(ours.get(), checked) == CheckerSaid::kChecked);
      try {
        request.done(std::move(checked));
      } catch (const std::bad_alloc&) {
        request.no_memory();
        std::rethrow_exception(std::current_exception());
      }
    });
  }
  void cancel_check(CheckId id) override { loop_->cancel(id); }

 private:
  EventLoop* loop_;
  std::uint32_t last_id_ = 0;
  std::map<std::uint32_t, std::thread> threads_;
};

}  // namespace sluice::test
