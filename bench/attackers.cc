#include "bench/attackers.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <exception>
#include <new>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/unix_socket.h"
#include "bench/attacker_guest.h"
#include "bench/measure.h"

namespace sluice::bench {
namespace {

using test::FrontEnd;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr auto kShortly = std::chrono::microseconds(100);

// Session after session, as fast as the daemon admits them.
template <typename Session>
[[noreturn]] void for_ever(Score& score, Session&& session) {
  for (;;) {
    try {
      session();
    } catch (const std::exception&) {
      // What a session could not have (a connection, memory), the next one tries to get.
    }
    ++score.sessions;
    std::this_thread::sleep_for(kShortly);
  }
}

// ---- rings: a guest whose indices move as fast as it can move them

enum class Buffers : std::uint8_t { kGood, kBad, kLongTables };

void spin_rings(const Ground& ground, Score& score, Buffers buffers) {
  for_ever(score, [&] {
    AttackerGuest guest(ground.guest_socket, 64 * kMiB);
    AttackerRing& tx = guest.add_ring(1);
    AttackerRing& rx = guest.add_ring(0);
    for (std::uint16_t i = 0; i < kAttackerEntries; ++i) {
      const bool odd = i % 2 != 0;
      switch (buffers) {
        case Buffers::kGood:
          tx.set(i, guest.good_frame(ground.wire_mac), false);
          rx.set(i, guest.room(2048), true);
          break;
        case Buffers::kBad:  // of the wrong direction, and of memory that there is not
          tx.set(i, odd ? guest.room(200) : AttackerGuest::nowhere(), odd);
          rx.set(i, odd ? guest.room(2048) : AttackerGuest::nowhere(), !odd);
          break;
        case Buffers::kLongTables:  // whole ones, and ones that are wrong at their very end
          tx.set_table(i, guest.table(ground.wire_mac, odd), false);
          rx.set(i, guest.room(2048), true);
          break;
      }
    }
    guest.start();
    while (guest.connected()) {
      for (int i = 0; i < 1024; ++i) {
        score.operations += tx.refill() + rx.refill();
        if (i % 64 == 0) {
          tx.kick();
        }
      }
    }
  });
}

void refill_with_good_buffers(const Ground& ground, Score& score) {
  spin_rings(ground, score, Buffers::kGood);
}
void refill_with_bad_buffers(const Ground& ground, Score& score) {
  spin_rings(ground, score, Buffers::kBad);
}
void refill_with_long_tables(const Ground& ground, Score& score) {
  spin_rings(ground, score, Buffers::kLongTables);
}

// ---- memory: a guest that receives into 256 MiB, and punches them, or as many that are not the guest's

constexpr std::uint64_t kPunched = 256 * kMiB;

void receive_and_punch(const Ground& ground, Score& score, bool own_memory) {
  for_ever(score, [&] {
    AttackerGuest guest(ground.guest_socket, kPunched + 4 * kMiB);
    test::GuestRam apart(own_memory ? 4 * kMiB : kPunched);
    AttackerRing& rx = guest.add_ring(0);
    const std::uint64_t begin = guest.reserve(kPunched);
    for (std::uint16_t i = 0; i < kAttackerEntries; ++i) {
      rx.set(i, {guest.address_of(begin) + i * (kPunched / kAttackerEntries), 2048}, true);
    }
    guest.start();
    std::jthread refill([&](std::stop_token stop) {
      while (!stop.stop_requested()) {
        (void)rx.refill();
        std::this_thread::sleep_for(kShortly);
      }
    });
    const int fd = own_memory ? guest.memory_fd() : apart.fd();
    const off_t from = own_memory ? static_cast<off_t>(begin) : 0;
    while (guest.connected()) {
      (void)::fallocate(fd, 0, from, off_t{kPunched});
      (void)::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from, off_t{kPunched});
      ++score.operations;
    }
  });
}

void receive_and_punch_elsewhere(const Ground& ground, Score& score) {
  receive_and_punch(ground, score, false);
}
void punch_what_is_received_into(const Ground& ground, Score& score) {
  receive_and_punch(ground, score, true);
}

// ---- messages: 64 in one go, then whatever answers come

constexpr int kMessages = 64;

// A running guest; `say` sends message number i, and says whether it could.
template <typename Say>
void flood(const Ground& ground, Score& score, Say&& say) {
  for_ever(score, [&] {
    AttackerGuest guest(ground.guest_socket, 16 * kMiB);
    for (std::uint32_t ring : {0u, 1u}) {
      AttackerRing& each = guest.add_ring(ring);
      for (std::uint16_t i = 0; i < kAttackerEntries; ++i) {
        each.set(i, guest.room(2048), ring == 0);
      }
    }
    guest.start();
    bool goes_on = true;
    while (goes_on) {
      for (int i = 0; i < kMessages && goes_on; ++i) {
        goes_on = say(guest, i);
        score.operations += goes_on ? 1 : 0;
      }
      goes_on = goes_on && guest.front().barrier();
    }
  });
}

void ask_for_features(const Ground& ground, Score& score) {
  flood(ground, score, [](AttackerGuest& guest, int) { return guest.front().barrier(); });
}

void pause_workers(const Ground& ground, Score& score) {
  flood(ground, score, [](AttackerGuest& guest, int i) {
    const auto number = static_cast<std::uint32_t>(i);
    return guest.front().send(VHOST_USER_SET_VRING_ENABLE,
                              vhost_user_vring_state{number / 2 % 2, number % 2});
  });
}

void change_memory(const Ground& ground, Score& score) {
  flood(ground, score, [](AttackerGuest& guest, int) { return guest.send_memory(); });
}

// What a message may carry, made anew each time: memory and a socket in turn.
UniqueFd new_descriptor(int i) {
  return UniqueFd(i % 2 == 0 ? ::memfd_create("carried", MFD_CLOEXEC)
                             : ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

bool tell_call(AttackerGuest& guest, int fd) {
  return fd >= 0 ? guest.front().send(VHOST_USER_SET_VRING_CALL, std::uint64_t{0}, std::span(&fd, 1))
                 : guest.front().send(VHOST_USER_SET_VRING_CALL, std::uint64_t{VHOST_USER_VRING_NO_FD});
}

void send_no_descriptors(const Ground& ground, Score& score) {
  flood(ground, score, [](AttackerGuest& guest, int i) {
    const UniqueFd made = new_descriptor(i);
    return tell_call(guest, -1);
  });
}

void send_descriptors(const Ground& ground, Score& score) {
  flood(ground, score, [](AttackerGuest& guest, int i) {
    const UniqueFd made = new_descriptor(i);
    return tell_call(guest, made.get());
  });
}

// As many as a message holds, with one that takes none: the end of the session, each time.
void send_many_descriptors(const Ground& ground, Score& score) {
  std::vector<UniqueFd> kept;
  std::vector<int> fds;
  for (int i = 0; i < 250; ++i) {
    kept.push_back(new_descriptor(i));
    fds.push_back(kept.back().get());
  }
  for_ever(score, [&] {
    FrontEnd front = FrontEnd::connect(ground.guest_socket);
    while (front.send(VHOST_USER_GET_FEATURES, std::span<const std::byte>(), fds) && front.barrier()) {
      ++score.operations;
    }
    ++score.operations;
  });
}

// ---- connections: to the daemon's sockets, or to one that is the process's own

void storm(const Ground& ground, Score& score) {
  const std::array<std::byte, 16> garbage{};
  for_ever(score, [&] {
    for (std::uint32_t i = 0;; ++i) {
      auto app = connect_to_path(ground.app_socket, SOCK_SEQPACKET);
      auto guest = connect_to_path(ground.guest_socket, SOCK_STREAM);
      for (auto* each : {&app, &guest}) {
        if (*each && i % 2 != 0) {
          (void)::send((*each)->get(), garbage.data(), garbage.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        }
        score.operations += *each ? 1 : 0;
      }
    }
  });
}

void connect_now_and_then(const Ground& ground, Score& score) {
  constexpr std::uint64_t kSecond = 1'000'000'000;
  for_ever(score, [&] {
    const std::string path = ground.app_socket + ".own";
    auto listener = UnixListener::at(path, SOCK_SEQPACKET);
    for (std::uint64_t next = now_ns(); listener;) {
      for (int i = 0; i < 2; ++i) {
        auto own = connect_to_path(path, SOCK_SEQPACKET);
        const UniqueFd accepted(::accept4(listener->fd(), nullptr, nullptr, SOCK_CLOEXEC));
        ++score.operations;
      }
      if (now_ns() >= next) {
        auto app = connect_to_path(ground.app_socket, SOCK_SEQPACKET);
        auto guest = connect_to_path(ground.guest_socket, SOCK_STREAM);
        next += kSecond;
      }
    }
  });
}

// ---- wake-ups: a guest that wants to be called for each frame

void receive_with_calls(const Ground& ground, Score& score, int sets, int numbers) {
  for_ever(score, [&] {
    AttackerGuest guest(ground.guest_socket, 16 * kMiB);
    AttackerRing& rx = guest.add_ring(0);
    for (std::uint16_t i = 0; i < kAttackerEntries; ++i) {
      rx.set(i, guest.room(2048), true);
    }
    static bool watched = false;  // the descriptor is one for all sessions
    static const int call = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!watched) {
      watch_often(call, sets, numbers);
      watched = true;
    }
    guest.call_with(call);
    guest.start();
    // The calls are not read: a read would walk the watches too, at the attacker's cost and its CPU's.
    while (guest.connected()) {
      score.operations += rx.refill();
      std::this_thread::sleep_for(kShortly);
    }
  });
}

void be_called_cheaply(const Ground& ground, Score& score) {
  receive_with_calls(ground, score, 1, 1);
}
void be_called_dearly(const Ground& ground, Score& score) {
  receive_with_calls(ground, score, 128, 400);
}

constexpr Case kCases[] = {
    {"bad_buffers", "keeps its queues full of good buffers", refill_with_good_buffers,
     "keeps them full of bad ones", refill_with_bad_buffers, 5'000, 0},
    {"long_tables", "keeps its queues full of good buffers", refill_with_good_buffers,
     "keeps them full of tables of 256 pieces", refill_with_long_tables, 5'000, 0},
    {"punched_memory", "receives, and punches 256 MiB that are not the guest's", receive_and_punch_elsewhere,
     "punches the 256 MiB it receives into", punch_what_is_received_into, 20'000, 0},
    {"pauses", "asks for features", ask_for_features, "enables and disables its rings", pause_workers, 0, 0},
    {"memory_tables", "asks for features", ask_for_features, "gives its memory again", change_memory, 0, 0},
    {"connections", "connects to itself, and once a second to two ports", connect_now_and_then,
     "connects to the two ports", storm, 0, 0},
    {"guest_calls", "is called by an eventfd", be_called_cheaply,
     "is called by one that is watched 51,200 times", be_called_dearly, 20'000, 0},
    {"app_wakes", "sleeps on its port", receive_cheaply, "watches its sockets 51,200 times", receive_dearly,
     0, 20'000},
    {"descriptors", "messages without any", send_no_descriptors, "messages with memory or a socket",
     send_descriptors, 0, 0},
    {"many_descriptors", "asks for features", ask_for_features, "sends 250 that no message takes",
     send_many_descriptors, 0, 0},
};

}  // namespace

std::span<const Case> cases() {
  return kCases;
}

void watch_often(int fd, int sets, int numbers) {
  std::vector<int> names{fd};
  for (int i = 1; i < numbers; ++i) {
    const int name = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (name >= 0) {
      names.push_back(name);
    }
  }
  for (int i = 0; i < sets; ++i) {
    const int set = ::epoll_create1(EPOLL_CLOEXEC);
    for (int name : names) {
      epoll_event event{.events = EPOLLIN | EPOLLET, .data = {.fd = name}};
      (void)::epoll_ctl(set, EPOLL_CTL_ADD, name, &event);
    }
  }
}

Player::Player(Part part, const Ground& ground)
    : shared_(Mapping::adopt(
          ::mmap(nullptr, sizeof(Score), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0),
          sizeof(Score))) {
  SLUICE_CHECK(shared_.data() != MAP_FAILED, "mmap: errno {}", errno);
  new (shared_.data()) Score;
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  SLUICE_CHECK(pid_ >= 0, "fork: errno {}", errno);
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::signal(SIGPIPE, SIG_IGN);
    run_on(kSenderCpu);  // the worker has the other one
    rlimit files{};
    ::getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
    while (::getppid() == parent && score().may_begin == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (::getppid() == parent) {
      part(ground, score());
    }
    ::_exit(0);
  }
}

Player::~Player() {
  stop();
}

bool Player::running() const {
  siginfo_t info{};
  return pid_ > 0 && ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid != pid_;
}

void Player::stop() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    (void)::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
}

}  // namespace sluice::bench
