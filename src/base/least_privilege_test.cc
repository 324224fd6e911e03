// Promises of least_privilege.h. What is confined stays so, so each test confines a child of its own.
#include "base/least_privilege.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

namespace sluice {
namespace {

#if defined(SLUICE_SANITIZED)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

// Ends the test: a function could only end itself.
#define SLUICE_NEED_FILTERS()                                                \
  if (kSanitized) {                                                          \
    GTEST_SKIP() << "builds with sanitizers have no filter of system calls"; \
  }                                                                          \
  static_assert(true)

struct Ended {
  int status = 0;
  std::string words;  // on stderr
};

// `body` in a child that has confined itself; its result is the exit status.
Ended in_confined_child(const std::function<int()>& body) {
  int words[2];
  EXPECT_EQ(::pipe(words), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(words[1], STDERR_FILENO);
    ::close(words[0]);
    const rlimit no_core{0, 0};
    ::setrlimit(RLIMIT_CORE, &no_core);
    if (auto confined = confine_process(); !confined) {
      (void)!::write(STDERR_FILENO, confined.error().message.data(), confined.error().message.size());
      ::_exit(99);
    }
    ::_exit(body());
  }
  ::close(words[1]);
  Ended ended;
  char buffer[512];
  for (ssize_t got; (got = ::read(words[0], buffer, sizeof buffer)) > 0;) {
    ended.words.append(buffer, static_cast<std::size_t>(got));
  }
  ::close(words[0]);
  ::waitpid(child, &ended.status, 0);
  return ended;
}

// On a thread of that kind.
int on_thread(ThreadKind kind, const std::function<int()>& body) {
  int result = 98;
  std::thread thread([&] {
    sigset_t all;  // as the daemon's threads do
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, nullptr);
    if (confine_thread(kind)) {
      result = body();
    }
  });
  thread.join();
  return result;
}

std::string status_line(const std::string& name) {
  std::ifstream file("/proc/thread-self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(name)) {
      return line.substr(line.find_first_not_of(" \t", name.size()));
    }
  }
  return "";
}

class LeastPrivilege : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) {
      GTEST_SKIP() << "needs root, which has something to give up";
    }
  }
  static void expect_refused(const Ended& ended, const std::string& kind, const std::string& call) {
    EXPECT_TRUE(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGSYS)
        << "status " << ended.status << ": " << ended.words;
    EXPECT_NE(ended.words.find(kind + " made the system call " + call), std::string::npos) << ended.words;
  }
};

TEST_F(LeastPrivilege, ControlKeepsOnlyTheNamedCapabilitiesAndNoneComeBack) {
  Ended ended = in_confined_child([] {
    std::uint64_t kept = 0;
    for (int capability : kept_capabilities()) {
      kept |= std::uint64_t{1} << capability;
    }
    rlimit locked{};
    ::getrlimit(RLIMIT_MEMLOCK, &locked);
    if (locked.rlim_cur != RLIM_INFINITY) {  // a machine whose root may not raise it
      kept |= std::uint64_t{1} << CAP_IPC_LOCK;
    }
    const auto has = [](const char* set) { return std::strtoull(status_line(set).c_str(), nullptr, 16); };
    if (has("CapEff:") != kept || has("CapPrm:") != kept || has("CapBnd:") != kept || has("CapAmb:") != 0) {
      return 1;
    }
    return status_line("NoNewPrivs:") == "1" ? 0 : 2;
  });
  EXPECT_EQ(ended.status, 0) << ended.words;
}

TEST_F(LeastPrivilege, OtherThreadsKeepNone) {
  // Asked from outside: a worker may open no file of /proc.
  Ended ended = in_confined_child([] {
    for (ThreadKind kind :
         {ThreadKind::kWorker, ThreadKind::kHaltpoll, ThreadKind::kCloser, ThreadKind::kWatch,
          ThreadKind::kPopulator, ThreadKind::kNicHelper, ThreadKind::kMaker}) {
      std::atomic<pid_t> id{0};
      std::atomic<bool> seen{false};
      std::thread thread([&] {
        id = confine_thread(kind) ? ::gettid() : -1;
        id.notify_all();
        seen.wait(false);
      });
      id.wait(0);
      std::ifstream file("/proc/self/task/" + std::to_string(id.load()) + "/status");
      std::string status((std::istreambuf_iterator<char>(file)), {});
      seen = true;
      seen.notify_all();
      thread.join();
      for (const char* set : {"CapEff:", "CapPrm:", "CapInh:", "CapAmb:"}) {
        if (status.find(std::string(set) + "\t0000000000000000\n") == std::string::npos) {
          return 1 + static_cast<int>(kind);
        }
      }
      if (!kSanitized && status.find("Seccomp:\t2\n") == std::string::npos) {
        return 11 + static_cast<int>(kind);
      }
    }
    return 0;
  });
  EXPECT_EQ(ended.status, 0) << ended.words;
}

TEST_F(LeastPrivilege, Malicious_AWorkerThatOpensAFileEndsTheProcessWhichSaysSo) {
  SLUICE_NEED_FILTERS();
  Ended ended = in_confined_child([] {
    return on_thread(ThreadKind::kWorker, [] { return ::open("/etc/passwd", O_RDONLY) >= 0 ? 0 : 1; });
  });
  expect_refused(ended, "worker", "openat");
}

TEST_F(LeastPrivilege, Malicious_NobodyStartsAProgramMountsLoadsOrLooksIntoAnother) {
  SLUICE_NEED_FILTERS();
  const long calls[] = {SYS_execve,          SYS_execveat,    SYS_ptrace,      SYS_mount,
                        SYS_init_module,     SYS_kexec_load,  SYS_unshare,     SYS_process_vm_writev,
                        SYS_setuid,          SYS_keyctl,      SYS_pidfd_getfd, SYS_io_uring_setup,
                        SYS_perf_event_open, SYS_userfaultfd, SYS_kill};
  for (long call : calls) {
    for (bool worker : {false, true}) {
      Ended ended = in_confined_child([call, worker] {
        const auto body = [call] { return static_cast<int>(::syscall(call, 0, 0, 0, 0, 0, 0)); };
        return worker ? on_thread(ThreadKind::kWorker, body) : body();
      });
      EXPECT_TRUE(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGSYS)
          << "call " << call << (worker ? " of a worker" : " of control") << ": status " << ended.status;
    }
  }
}

TEST_F(LeastPrivilege, Malicious_AWorkerMakesNoSocketNoThreadAndNoCode) {
  SLUICE_NEED_FILTERS();
  const auto on_worker = [](const std::function<int()>& body) {
    return in_confined_child([&] { return on_thread(ThreadKind::kWorker, body); });
  };
  expect_refused(on_worker([] { return ::socket(AF_UNIX, SOCK_STREAM, 0); }), "worker", "socket");
  expect_refused(on_worker([] { return static_cast<int>(::syscall(SYS_bpf, 0, nullptr, 0)); }), "worker",
                 "bpf");
  expect_refused(on_worker([] { return static_cast<int>(::syscall(SYS_mprotect, 0x1000, 4096, 7)); }),
                 "worker", "mprotect");
  expect_refused(on_worker([] { return static_cast<int>(::syscall(SYS_prctl, PR_SET_NAME, "x")); }), "worker",
                 "prctl");
  // Another process's end is not a worker's to make.
  const pid_t other = ::getpid();
  expect_refused(
      on_worker([other] { return static_cast<int>(::syscall(SYS_tgkill, other, other, SIGABRT)); }), "worker",
      "tgkill");
}

TEST_F(LeastPrivilege, Malicious_ControlIsNotAllowedFamiliesOfSocketsThatItDoesNotNeed) {
  SLUICE_NEED_FILTERS();
  expect_refused(in_confined_child([] { return ::socket(AF_VSOCK, SOCK_STREAM, 0); }), "control", "socket");
}

TEST_F(LeastPrivilege, Malicious_ControlWritesMakesAndRunsNoFileAndStillMakesItsSockets) {
  if (::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION) < 0) {
    GTEST_SKIP() << "this kernel has no landlock";
  }
  std::string folder = "/tmp/sluice-privilege-XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const std::string there = folder + "/there", made = folder + "/made", socket = folder + "/socket";
  std::ofstream(there) << "words";
  Ended ended = in_confined_child([&] {
    const auto refused = [](int result) { return result < 0 && errno == EACCES; };
    if (!refused(::open(there.c_str(), O_WRONLY)) || !refused(::open(there.c_str(), O_RDWR)) ||
        !refused(::open(made.c_str(), O_WRONLY | O_CREAT, 0600)) || !refused(::mkdir(made.c_str(), 0700))) {
      return 1;
    }
    if (::open(there.c_str(), O_RDONLY) < 0) {
      return 2;
    }
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    socket.copy(address.sun_path, sizeof address.sun_path - 1);
    const int listener = ::socket(AF_UNIX, SOCK_STREAM, 0);
    if (::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) < 0 ||
        ::rename(socket.c_str(), (folder + "/moved").c_str()) < 0 ||
        ::unlink((folder + "/moved").c_str()) < 0) {
      return 3;
    }
    const int memory = ::memfd_create("pages", 0);
    return ::open(("/proc/self/fd/" + std::to_string(memory)).c_str(), O_RDWR) >= 0 ? 0 : 4;
  });
  EXPECT_EQ(ended.status, 0) << ended.words;
  std::filesystem::remove_all(folder);
}

TEST_F(LeastPrivilege, AForkIsRefusedByAnErrorAndThreadsAreMade) {
  SLUICE_NEED_FILTERS();
  Ended ended = in_confined_child([] {
    const pid_t child = ::fork();
    if (child == 0) {
      ::_exit(0);
    }
    return child < 0 && errno == EPERM && on_thread(ThreadKind::kHaltpoll, [] { return 7; }) == 7 ? 0 : 1;
  });
  EXPECT_EQ(ended.status, 0) << ended.words;
}

TEST_F(LeastPrivilege, AFailedCheckOnAWorkerEndsAsEverByAbort) {
  Ended ended =
      in_confined_child([] { return on_thread(ThreadKind::kWorker, []() -> int { std::abort(); }); });
  EXPECT_TRUE(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT) << ended.status << ended.words;
}

TEST(ConfineThread, DoesNothingInAProcessThatIsNotConfined) {
  EXPECT_EQ(on_thread(ThreadKind::kWorker, [] { return ::open("/dev/null", O_RDONLY) >= 0 ? 0 : 1; }), 0);
}

}  // namespace
}  // namespace sluice
