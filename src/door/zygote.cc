#include "door/zygote.h"

#include <cap-ng.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <map>
#include <utility>
#include <vector>

#include "base/confine.h"
#include "base/fd.h"
#include "base/fd_passing.h"
#include "base/file_access.h"
#include "base/log.h"
#include "base/log_budget.h"

namespace sluice {

namespace {

constexpr rlim_t kMostDescriptors = 4096;  // of the zygote: one per door that runs
constexpr std::uint32_t kNobody = 65534;
constexpr long kBetweenZygotesNs = 100'000'000;  // when one is killed again and again

// A door's address space, so that a door that its peer has taken over cannot use the machine's memory up. A
// door needs some 10 MiB, most of it libraries.
// A sanitizer's shadow is larger.
#if defined(SLUICE_SANITIZED)
constexpr rlim_t kMostAddressSpace = RLIM_INFINITY;
#else
constexpr rlim_t kMostAddressSpace = rlim_t{256} << 20;
#endif
// A door that never rests takes little from other work on the same CPU. It is its own peer that waits.
constexpr int kDoorNiceness = 10;
// In zygote and doors /dev/null replaces the daemon's own standard streams, to which no door may write.
constexpr int kNullFile = kZygoteSocket + 1;

// System calls of doors and the zygote. A door loses those of the zygote alone before it looks at its peer.
constexpr std::string_view kDoorCalls[] = {
    "read",          "write",           "close",          "recvmsg",
    "recvfrom",      "sendto",          "poll",           "ppoll",
    "fstat",         "newfstatat",      "fstatfs",        "readlink",
    "readlinkat",    "shutdown",        "exit",           "exit_group",
    "rt_sigreturn",  "rt_sigaction",    "rt_sigprocmask", "brk",
    "mmap",          "munmap",          "mremap",         "madvise",
    "mprotect",      "futex",           "getpid",         "gettid",
    "clock_gettime", "restart_syscall", "getrandom",      "set_robust_list",
    "rseq"};
constexpr std::string_view kZygoteCalls[] = {
    "clone", "clone3", "close_range", "wait4", "waitid", "pidfd_send_signal", "prctl", "seccomp",
    "fcntl", "tgkill", "setpriority", "dup2",  "sendmsg"};

void limit(int resource, rlim_t to) {
  const rlimit both{to, to};
  (void)::setrlimit(static_cast<__rlimit_resource>(resource), &both);
}

Result<void> give_up_privileges() {
  limit(RLIMIT_NOFILE, kMostDescriptors);
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_AS, kMostAddressSpace);
  if (!become(kDoorUser)) {
    SLUICE_TRY(become(kNobody));
  }
  SLUICE_TRY(drop_all_capabilities());
  (void)::prctl(PR_SET_DUMPABLE, 0ul, 0ul, 0ul, 0ul);
  SLUICE_TRY(deny_files());
  std::vector<std::string_view> calls(std::begin(kDoorCalls), std::end(kDoorCalls));
  calls.insert(calls.end(), std::begin(kZygoteCalls), std::end(kZygoteCalls));
  return allow_system_calls(calls);
}

// A door from its fork to its end.
struct Child {
  UniqueFd process;  // a pidfd
};

// As fork(2), with a pidfd in the parent. The zygote has one thread, so nothing else is left half done.
pid_t fork_with_pidfd(int& pidfd) {
  clone_args args{};
  args.flags = CLONE_PIDFD;
  args.pidfd = reinterpret_cast<std::uint64_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  return static_cast<pid_t>(::syscall(SYS_clone3, &args, sizeof args));
}

// All doors run as the same user. None may signal another, neither by tgkill(2) nor by fcntl(F_SETOWN). The
// kernel also counts descriptors under way for that user. So a door sends descriptors to the daemon alone,
// which bounds them (DoorKeeper), and gives nobody else its channel.
Result<void> allow_calls_of_a_door(int channel) {
  const std::array<NarrowCall, 4> narrow{
      NarrowCall{.name = "fcntl", .argument = 1, .value = F_GETFL},
      NarrowCall{.name = "fcntl", .argument = 1, .value = F_GET_SEALS},
      NarrowCall{.name = "tgkill", .argument = 0, .value = static_cast<std::uint32_t>(::getpid())},
      NarrowCall{.name = "sendmsg", .argument = 0, .value = static_cast<std::uint32_t>(channel)}};
  return allow_system_calls(kDoorCalls, narrow);
}

[[noreturn]] void be_a_door(const ZygoteRequest& request, int channel, int peer, RunDoor run_door) {
  for (int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::dup2(kNullFile, standard) < 0) {
      ::_exit(2);
    }
  }
  if (request.kind == DoorKind::kGuest) {
    ::setpriority(PRIO_PROCESS, 0, kDoorNiceness);
  }
  // A door keeps nothing of the zygote's: neither its socket nor its notes on other doors.
  const int first = std::min(channel, peer < 0 ? channel : peer), second = std::max(channel, peer);
  ::close_range(kZygoteSocket, static_cast<unsigned>(first - 1), 0);
  if (second > first + 1) {
    ::close_range(static_cast<unsigned>(first + 1), static_cast<unsigned>(second - 1), 0);
  }
  ::close_range(static_cast<unsigned>(second + 1), ~0u, 0);
  ::signal(SIGCHLD, SIG_DFL);
  if (auto done = allow_calls_of_a_door(channel); !done) {
    ::_exit(2);
  }
  run_door(request.kind, channel, peer);
  ::_exit(0);
}

class Zygote {
 public:
  explicit Zygote(RunDoor run_door) : run_door_(run_door) {}

  void serve() {
    while (wait() && take_request()) {
    }
    // An honest door ends when it sees the end of its channel. One that its peer has taken over may not.
    for (const auto& [id, child] : children_) {
      kill(id);
    }
  }

 private:
  // Until the daemon speaks, or is gone. Doors that end meanwhile are reaped.
  bool wait() {
    for (;;) {
      std::vector<pollfd> waiting{{.fd = kZygoteSocket, .events = POLLIN, .revents = 0}};
      for (const auto& [id, child] : children_) {
        waiting.push_back({.fd = child.process.get(), .events = POLLIN, .revents = 0});
      }
      if (::poll(waiting.data(), waiting.size(), -1) < 0 && errno != EINTR) {
        return false;
      }
      reap();
      if (waiting.front().revents != 0) {
        return true;
      }
    }
  }

  // False: the daemon is gone.
  bool take_request() {
    ZygoteRequest request;
    alignas(cmsghdr) std::byte control[CMSG_SPACE(2 * sizeof(int))];
    iovec bytes{&request, sizeof request};
    msghdr header{};
    header.msg_iov = &bytes;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    const ssize_t got = ::recvmsg(kZygoteSocket, &header, MSG_CMSG_CLOEXEC);
    if (got < 0 && errno == EINTR) {
      return true;
    }
    if (got != sizeof request) {
      return false;
    }
    const std::vector<ReceivedFd> fds = received_fds(header);
    if (request.what == ZygoteRequest::What::kKill) {
      kill(request.id);
    } else if (!fds.empty()) {
      open(request, number_of(fds[0]), fds.size() > 1 ? number_of(fds[1]) : -1);
    }
    return true;
  }

  void open(const ZygoteRequest& request, int channel, int peer) {
    int pidfd = -1;
    const pid_t pid = fork_with_pidfd(pidfd);
    if (pid == 0) {
      be_a_door(request, channel, peer, run_door_);
    }
    ::close(channel);  // the daemon sees the end of its channel when there is no door
    if (pid < 0) {
      // The zygote may not close the peer's socket, and the daemon has closed its own: it stays open.
      return;
    }
    if (peer >= 0) {
      ::close(peer);  // the door has it too: this is not the last reference
    }
    children_[request.id] = Child{UniqueFd(pidfd)};
  }

  void kill(std::uint32_t id) {
    if (auto child = children_.find(id); child != children_.end()) {
      ::syscall(SYS_pidfd_send_signal, child->second.process.get(), SIGKILL, nullptr, 0);
    }
  }

  void reap() {
    std::erase_if(children_, [this](const auto& entry) {
      siginfo_t info{};
      const bool ended =
          ::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(entry.second.process.get()), &info,
                   WEXITED | WNOHANG) == 0 &&
          info.si_pid != 0;
      const bool died = ended && info.si_code != CLD_EXITED && info.si_status != SIGKILL;
      // The door cannot say so itself: a check failed, or it made a system call that it may not make.
      if (died && log_budget_.take()) {
        log::error("a door, pid {}, died of signal {}", info.si_pid, info.si_status);
      }
      return ended;
    });
  }

  RunDoor run_door_;
  LogBudget log_budget_;
  std::map<std::uint32_t, Child> children_;
};

// The parent of zygotes replaces a zygote that was killed, which a confined daemon cannot do. It reads
// nothing, so no message can attack it. It keeps the capabilities by which a zygote becomes another user.
Result<void> keep_what_zygotes_give_up() {
  if (::geteuid() != 0) {
    return {};
  }
  ::capng_clear(CAPNG_SELECT_BOTH);
  ::capng_updatev(CAPNG_ADD,
                  static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET),
                  CAP_SETUID, CAP_SETGID, CAP_SETPCAP, -1);
  if (::capng_apply(CAPNG_SELECT_BOTH) != 0) {
    return fail("cannot give up capabilities");
  }
  return {};
}

Result<void> open_null_file() {
  UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null) {
    return fail_errno(errno, "cannot open /dev/null");
  }
  if (null.get() == kNullFile) {
    (void)null.release();
  } else if (::dup2(null.get(), kNullFile) < 0) {  // who started the daemon has left it no standard streams
    return fail_errno(errno, "cannot duplicate a descriptor");
  }
  return {};
}

Result<void> be_the_zygote(RunDoor run_door) {
  ::prctl(PR_SET_NAME, "sluice-door");
  SLUICE_TRY(give_up_privileges());
  Zygote(run_door).serve();
  return {};
}

}  // namespace

Result<void> run_zygote(RunDoor run_door) {
  ::prctl(PR_SET_NAME, "sluice-doors");
  ::signal(SIGPIPE, SIG_IGN);
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) {
    ::signal(signal, SIG_IGN);  // a terminal's ^C is for the daemon, whose end is ours
  }
  ::close_range(kZygoteSocket + 1, ~0u, 0);
  SLUICE_TRY(open_null_file());
  SLUICE_TRY(keep_what_zygotes_give_up());
  log::start("sluice-door", "info");
  ::tzset();  // reads a file, which a zygote that has something to say may not
  for (;;) {
    const pid_t zygote = ::fork();
    if (zygote < 0) {
      return fail_errno(errno, "cannot fork");
    }
    if (zygote == 0) {
      return be_the_zygote(run_door);
    }
    int status = 0;
    while (::waitpid(zygote, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(status)) {
      ::_exit(WEXITSTATUS(status));  // the daemon is gone, or the zygote has said why it could not begin
    }
    log::error("the process that makes doors died of signal {}; another one is started", WTERMSIG(status));
    const timespec pause{.tv_sec = 0, .tv_nsec = kBetweenZygotesNs};
    ::nanosleep(&pause, nullptr);
  }
}

}  // namespace sluice
