// The system calls that each kind of thread may make. Worker and haltpoll need no file, no socket of their
// own, no process. Conditions on arguments stand in least_privilege.cc.
#include <array>

#include "base/least_privilege.h"

namespace sluice {

namespace {

// Every thread: memory, waiting, its end, and what a failed check says before it.
#define SLUICE_CALLS_OF_ALL                                                                             \
  "brk", "munmap", "mremap", "madvise", "futex", "futex_waitv", "write", "writev", "clock_gettime",     \
      "clock_nanosleep", "nanosleep", "sched_yield", "getpid", "gettid", "getcpu", "rt_sigreturn",      \
      "rt_sigprocmask", "rt_sigaction", "sigaltstack", "restart_syscall", "exit", "exit_group", "rseq", \
      "membarrier", "getrandom", "gettimeofday", "time"

constexpr std::array kHaltpollCalls = std::to_array<std::string_view>({SLUICE_CALLS_OF_ALL});

// It faults a guest's memory in (madvise), and says that it has done so.
constexpr std::array kPopulatorCalls =
    std::to_array<std::string_view>({SLUICE_CALLS_OF_ALL, "sendto", "sendmsg"});

// It looks at counters, and says in the journal what it sees.
constexpr std::array kWatchCalls =
    std::to_array<std::string_view>({SLUICE_CALLS_OF_ALL, "sendto", "sendmsg"});

// Closer::run() is for jobs that drop references, and nothing else.
constexpr std::array kCloserCalls = std::to_array<std::string_view>({SLUICE_CALLS_OF_ALL, "close"});

// Sockets that control has made.
constexpr std::array kNicHelperCalls =
    std::to_array<std::string_view>({SLUICE_CALLS_OF_ALL, "bind", "close"});
// A socket or an eventfd of a peer, and its own bell; a timer that ends a write to an eventfd.
constexpr std::array kWakerCalls = std::to_array<std::string_view>(
    {SLUICE_CALLS_OF_ALL, "read", "poll", "ppoll", "sendto", "io_setup", "io_destroy", "io_submit",
     "io_getevents", "getrusage", "timer_create", "timer_settime", "timer_delete"});

// An arena and segments, what wakes both sides, and how much memory there is.
constexpr std::array kMakerCalls = std::to_array<std::string_view>({
    SLUICE_CALLS_OF_ALL,
    "memfd_create",
    "ftruncate",
    "fallocate",
    "fchmod",
    "fcntl",
    "open",
    "openat",
    "read",
    "lseek",
    "fstat",
    "newfstatat",
    "close",
    "eventfd2",
    "epoll_create1",
    "epoll_ctl",
    "socketpair",
    "setsockopt",
    "sysinfo",
});

constexpr std::array kWorkerCalls = std::to_array<std::string_view>({
    SLUICE_CALLS_OF_ALL,
    // Frames: to and from AF_XDP sockets, a tap, a packet socket; an app or a guest is woken.
    "read",
    "readv",
    "preadv2",
    "sendto",
    "sendmsg",
    "recvfrom",
    "recvmsg",
    "io_setup",
    "io_destroy",
    "io_submit",
    "io_getevents",
    "getsockopt",
    "setsockopt",
    "poll",
    "ppoll",
    // What a slow port has cost this thread.
    "getrusage",
    // Sleep.
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    // A timer to look by at rings that bring no kick.
    "timerfd_create",
    "timerfd_settime",
    // A set of descriptors to sleep on is closed when it is made anew.
    "close",
});

// What a service that manages links, files of its own and sockets needs. No program is started, no other
// process is touched, no file system is mounted, no kernel module is loaded.
constexpr std::array kControlCalls = std::to_array<std::string_view>({
    SLUICE_CALLS_OF_ALL,
    // files
    "read",
    "readv",
    "pread64",
    "preadv",
    "preadv2",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "lseek",
    "open",
    "openat",
    "openat2",
    "close",
    "close_range",
    "access",
    "faccessat",
    "faccessat2",
    "stat",
    "lstat",
    "fstat",
    "newfstatat",
    "statx",
    "statfs",
    "fstatfs",
    "readlink",
    "readlinkat",
    "getcwd",
    "getdents64",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "linkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "umask",
    "chmod",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "chown",
    "fchown",
    "lchown",
    "fchownat",
    "flock",
    "fsync",
    "fdatasync",
    "ftruncate",
    "fallocate",
    "memfd_create",
    "dup",
    "dup2",
    "dup3",
    "fcntl",
    // waiting
    "poll",
    "ppoll",
    "select",
    "pselect6",
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "eventfd2",
    "timerfd_create",
    "timerfd_settime",
    "timerfd_gettime",
    "signalfd4",
    "pipe2",
    "io_setup",
    "io_submit",
    "io_getevents",
    "io_pgetevents",
    "io_cancel",
    "io_destroy",
    // sockets; which families: least_privilege.cc
    "socketpair",
    "bind",
    "listen",
    "accept",
    "accept4",
    "connect",
    "shutdown",
    "sendto",
    "sendmsg",
    "sendmmsg",
    "recvfrom",
    "recvmsg",
    "recvmmsg",
    "getsockopt",
    "setsockopt",
    "getsockname",
    "getpeername",
    // the XDP program and its maps
    "bpf",
    // threads of its own, and what these may
    "set_robust_list",
    "timer_create",
    "timer_settime",
    "timer_delete",
    "sched_setaffinity",
    "sched_getaffinity",
    "sched_setscheduler",
    "sched_getscheduler",
    "sched_setparam",
    "sched_getparam",
    "sched_get_priority_max",
    "sched_get_priority_min",
    "setpriority",
    "getpriority",
    "prctl",
    "arch_prctl",
    "seccomp",
    "capget",
    "capset",
    // itself and its machine
    "mlock",
    "mlock2",
    "munlock",
    "mbind",
    "get_mempolicy",
    "getrlimit",
    "setrlimit",
    "getrusage",
    "sysinfo",
    "uname",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "getgroups",
    "getppid",
    "clock_getres",
    "pidfd_open",
    "pidfd_send_signal",
    "wait4",
    "waitid",
});

}  // namespace

std::string_view name_of(ThreadKind kind) {
  switch (kind) {
    case ThreadKind::kControl:
      return "control";
    case ThreadKind::kWorker:
      return "worker";
    case ThreadKind::kHaltpoll:
      return "haltpoll";
    case ThreadKind::kCloser:
      return "closer";
    case ThreadKind::kWatch:
      return "watch";
    case ThreadKind::kPopulator:
      return "populator";
    case ThreadKind::kNicHelper:
      return "nic-helper";
    case ThreadKind::kWaker:
      return "waker";
    case ThreadKind::kMaker:
      return "maker";
  }
  return "unknown";
}

std::span<const std::string_view> calls_of(ThreadKind kind) {
  switch (kind) {
    case ThreadKind::kControl:
      return kControlCalls;
    case ThreadKind::kWorker:
      return kWorkerCalls;
    case ThreadKind::kHaltpoll:
      return kHaltpollCalls;
    case ThreadKind::kCloser:
      return kCloserCalls;
    case ThreadKind::kWatch:
      return kWatchCalls;
    case ThreadKind::kPopulator:
      return kPopulatorCalls;
    case ThreadKind::kNicHelper:
      return kNicHelperCalls;
    case ThreadKind::kWaker:
      return kWakerCalls;
    case ThreadKind::kMaker:
      return kMakerCalls;
  }
  return {};
}

}  // namespace sluice
