// sluice-door, but for what a guest's door does once its front-end has said so (taken_door.h).
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <iterator>
#include <span>
#include <vector>

#include "base/closer.h"
#include "base/fd_passing.h"
#include "door/checker.h"
#include "door/one_message.h"
#include "door/undertaker.h"
#include "door/zygote.h"
#include "port/guest/vhost_user/guest_door.h"
#include "test/system/taken_door.h"

namespace {

using namespace sluice;
using namespace sluice::test;

constexpr pid_t kMostPids = 1 << 16;  // tried; a test's processes are young, and of a small machine

class TakenDoor {
 public:
  TakenDoor(int channel, int peer) : channel_(channel), peer_(peer) {}

  void run() {
    while (wait_for_peer()) {
      std::uint32_t first = 0;
      if (::recv(peer_, &first, sizeof first, MSG_PEEK | MSG_DONTWAIT) != sizeof first ||
          first != kTakenOver) {
        return run_guest_door(channel_, peer_);
      }
      if (!take_order() || !obey()) {
        return;
      }
    }
  }

 private:
  // False: the daemon has said that this is to end.
  bool wait_for_peer() {
    std::array<pollfd, 2> waiting{pollfd{.fd = peer_, .events = POLLIN, .revents = 0},
                                  pollfd{.fd = channel_, .events = POLLRDHUP, .revents = 0}};
    return ::poll(waiting.data(), waiting.size(), -1) > 0 && waiting[1].revents == 0;
  }

  bool take_order() {
    iovec place{&order_, sizeof order_};
    alignas(cmsghdr) std::byte control[CMSG_SPACE(kMostFdsOfAMessage * sizeof(int))];
    msghdr header{};
    header.msg_iov = &place;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    // One sendmsg(2) of its sender, with descriptors of its own, so it is read whole. They stay open: who
    // closes them waits.
    if (::recvmsg(peer_, &header, MSG_DONTWAIT) != sizeof order_) {
      return false;
    }
    fds_.clear();
    std::ranges::transform(received_fds(header), std::back_inserter(fds_), number_of);
    return true;
  }

  bool obey() {
    switch (order_.what) {
      case DoorOrder::What::kSay:
        for (std::uint32_t i = 0; i < order_.times; ++i) {
          (void)send_with_fds(channel_, std::span(order_.data).first(order_.bytes), fds_, 0);
        }
        return true;
      case DoorOrder::What::kHold:
        for (;;) {
          ::poll(nullptr, 0, -1);
        }
      case DoorOrder::What::kEnd:
        return false;
      case DoorOrder::What::kSignal:
        for (pid_t pid = 2; pid < kMostPids; ++pid) {
          if (pid != ::getpid()) {
            ::syscall(SYS_tgkill, pid, pid, SIGKILL);
          }
        }
        return true;
      case DoorOrder::What::kOwn:
        for (pid_t pid = 2; pid < kMostPids; ++pid) {
          if (pid != ::getpid()) {
            ::fcntl(peer_, F_SETOWN, pid);
            ::fcntl(peer_, F_SETSIG, SIGKILL);
            ::fcntl(peer_, F_SETFL, O_NONBLOCK | O_ASYNC);
          }
        }
        return true;
      case DoorOrder::What::kPassOn:
        (void)send_with_fds(peer_, std::as_bytes(std::span(&order_, 1)), std::span(&channel_, 1), 0);
        return true;
      case DoorOrder::What::kWrite:
        for (int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
          (void)!::write(stream, order_.data.data(), order_.bytes);
        }
        return true;
      case DoorOrder::What::kTake:
        return take_memory() < std::size_t{1} << 30;
    }
    return false;
  }

  static std::size_t take_memory() {
    constexpr std::size_t kPiece = std::size_t{1} << 20;
    std::size_t taken = 0;
    for (const int flags : {MAP_PRIVATE, MAP_SHARED}) {
      while (taken < std::size_t{2} << 30 &&
             ::mmap(nullptr, kPiece, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) {
        taken += kPiece;
      }
    }
    return taken;
  }

  const int channel_, peer_;
  DoorOrder order_;
  std::vector<int> fds_;
};

void run_door(DoorKind kind, int channel, int peer) {
  switch (kind) {
    case DoorKind::kGuest:
      return TakenDoor(channel, peer).run();
    case DoorKind::kOneMessage:
      return run_message_door(channel, peer);
    case DoorKind::kUndertaker:
      return run_undertaker(channel);
    case DoorKind::kChecker:
      return run_checker(channel);
  }
}

}  // namespace

int main() {
  Closer::of_process().work_without_thread();
  if (auto ended = run_zygote(run_door); !ended) {
    std::fprintf(stderr, "sluice-door: %s\n", ended.error().message.c_str());
    return 1;
  }
  return 0;
}
