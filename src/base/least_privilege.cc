#include "base/least_privilege.h"

#include <linux/capability.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "base/file_access.h"

namespace sluice {

namespace {

// A new NIC: XDP is attached, a tap is made (CAP_NET_ADMIN); AF_XDP and packet sockets (CAP_NET_RAW); new
// rules are a new map, a new NIC a program more (CAP_BPF; CAP_PERFMON: arithmetic on packet pointers).
constexpr std::array kKept{CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF, CAP_PERFMON};

// Families of the sockets that control makes: ports and tools, NICs, links, broadcasts, ethtool's ioctl.
constexpr std::array kFamilies{AF_UNIX, AF_XDP, AF_NETLINK, AF_PACKET, AF_INET};

// A tap's device.
constexpr std::array kWritableFiles{"/dev/net/tun"};

#if defined(SLUICE_SANITIZED)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

std::atomic<bool> process_is_confined{false};

// --- capabilities ---

struct CapabilitySet {
  __user_cap_data_struct words[_LINUX_CAPABILITY_U32S_3]{};
  bool permits(int capability) const {
    return (words[CAP_TO_INDEX(capability)].permitted & CAP_TO_MASK(capability)) != 0;
  }
  void keep(int capability) {
    words[CAP_TO_INDEX(capability)].permitted |= CAP_TO_MASK(capability);
    words[CAP_TO_INDEX(capability)].effective |= CAP_TO_MASK(capability);
  }
};

// Of the calling thread: capabilities(7), each thread has its own.
Result<CapabilitySet> own_capabilities() {
  CapabilitySet set;
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  if (::syscall(SYS_capget, &header, set.words) < 0) {
    return fail_errno(errno, "cannot read this process's capabilities");
  }
  return set;
}

Result<void> set_capabilities(const CapabilitySet& set) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  if (::syscall(SYS_capset, &header, set.words) < 0) {
    return fail_errno(errno, "cannot give up capabilities");
  }
  return {};
}

// True: no bound is left, so pages can be registered without CAP_IPC_LOCK.
bool raise_locked_memory_limit() {
  const rlimit none{RLIM_INFINITY, RLIM_INFINITY};
  if (::setrlimit(RLIMIT_MEMLOCK, &none) == 0) {
    return true;
  }
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_MEMLOCK, &limit);
  }
  return limit.rlim_cur == RLIM_INFINITY;
}

Result<void> keep_few_capabilities() {
  auto present = SLUICE_TRY(own_capabilities());
  CapabilitySet kept;
  for (int capability : kKept) {
    if (present.permits(capability)) {
      kept.keep(capability);
    }
  }
  if (!raise_locked_memory_limit() && present.permits(CAP_IPC_LOCK)) {
    kept.keep(CAP_IPC_LOCK);
  }
  // The bounding set too, which needs CAP_SETPCAP: without, no_new_privs alone keeps what is gone from coming
  // back.
  if (present.permits(CAP_SETPCAP)) {
    for (int capability = 0; ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
      if (!kept.permits(capability) && ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) {
        return fail_errno(errno, "cannot take capability {} from the bounding set", capability);
      }
    }
  }
  ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  SLUICE_TRY(set_capabilities(kept));
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1ul, 0ul, 0ul, 0ul) < 0) {
    return fail_errno(errno, "cannot set no_new_privs");
  }
  return {};
}

// --- a call that is not allowed ---

constexpr int kMostCalls = 512;
constexpr std::size_t kNameBytes = 32;
// Filled before the first filter: a handler may ask nobody.
std::array<std::array<char, kNameBytes>, kMostCalls> call_names;
thread_local ThreadKind own_kind = ThreadKind::kControl;

void learn_call_names() {
  for (int call = 0; call < kMostCalls; ++call) {
    std::unique_ptr<char, decltype(&std::free)> name(
        ::seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, call), &std::free);
    std::snprintf(call_names[static_cast<std::size_t>(call)].data(), kNameBytes, "%s",
                  name ? name.get() : "unknown");
  }
}

// Async-signal-safe. The kernel has not carried the call out, and does not: this process ends.
[[noreturn]] void on_refused_call(int, siginfo_t* info, void*) {
  std::array<char, 192> line{};
  std::size_t length = 0;
  const auto append = [&](std::string_view text) {
    for (char c : text) {
      if (length < line.size()) {
        line[length++] = c;
      }
    }
  };
  const int call = info->si_syscall;
  append("sluiced: a thread of kind ");
  append(name_of(own_kind));
  append(" made the system call ");
  append(call >= 0 && call < kMostCalls ? call_names[static_cast<std::size_t>(call)].data() : "unknown");
  append(", which it may not; ending (docs/privileges.md)\n");
  (void)!::write(STDERR_FILENO, line.data(), length);
  // As if there had been no handler, so that the exit status and the core file say SIGSYS.
  ::signal(SIGSYS, SIG_DFL);
  ::raise(SIGSYS);
  sigset_t mask;
  ::sigemptyset(&mask);
  ::sigaddset(&mask, SIGSYS);
  ::pthread_sigmask(SIG_UNBLOCK, &mask, nullptr);
  ::_exit(128 + SIGSYS);
}

Result<void> watch_refused_calls() {
  learn_call_names();
  struct sigaction action{};
  action.sa_sigaction = on_refused_call;
  action.sa_flags = SA_SIGINFO;
  ::sigemptyset(&action.sa_mask);
  if (::sigaction(SIGSYS, &action, nullptr) < 0) {
    return fail_errno(errno, "cannot handle SIGSYS");
  }
  return {};
}

// --- system calls ---

class Filter {
 public:
  Filter() : context_(::seccomp_init(SCMP_ACT_TRAP), &::seccomp_release) {}

  Result<void> allow(std::string_view name) { return add(SCMP_ACT_ALLOW, name, {}); }
  Result<void> allow_if(std::string_view name, std::initializer_list<scmp_arg_cmp> conditions) {
    return add(SCMP_ACT_ALLOW, name, conditions);
  }
  Result<void> answer(std::string_view name, int os_errno) { return answer_if(name, os_errno, {}); }
  Result<void> answer_if(std::string_view name, int os_errno,
                         std::initializer_list<scmp_arg_cmp> conditions) {
    return add(SCMP_ACT_ERRNO(static_cast<std::uint32_t>(os_errno)), name, conditions);
  }
  Result<void> load() {
    // A tree rather than a list. From Linux 5.11 on, calls that are always allowed are not looked up at all.
    ::seccomp_attr_set(context_.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (const int error = ::seccomp_load(context_.get()); error < 0) {
      return fail_errno(-error,
                        "cannot load a filter of system calls (has this kernel "
                        "CONFIG_SECCOMP_FILTER? `--confine off` goes without)");
    }
    return {};
  }

 private:
  Result<void> add(std::uint32_t action, std::string_view name,
                   std::initializer_list<scmp_arg_cmp> conditions) {
    if (!context_) {
      return fail("cannot make a filter of system calls: out of memory");
    }
    const int call = ::seccomp_syscall_resolve_name(std::string(name).c_str());
    if (call < 0) {
      return {};  // of other machines, or newer than this libseccomp
    }
    if (const int error = ::seccomp_rule_add_array(
            context_.get(), action, call, static_cast<unsigned>(conditions.size()), conditions.begin());
        error < 0) {
      return fail_errno(-error, "cannot filter the system call {}", name);
    }
    return {};
  }

  std::unique_ptr<void, decltype(&::seccomp_release)> context_;
};

scmp_arg_cmp equals(unsigned argument, std::uint64_t value) {
  return {argument, SCMP_CMP_EQ, value, 0};
}
scmp_arg_cmp has_bits(unsigned argument, std::uint64_t mask, std::uint64_t bits) {
  return {argument, SCMP_CMP_MASKED_EQ, mask, bits};
}

// Ends itself by a signal, and nobody else.
Result<void> allow_own_signals(Filter& filter) {
  const auto self = static_cast<std::uint64_t>(::getpid());
  for (int signal : {SIGABRT, SIGSYS, SIGBUS}) {
    SLUICE_TRY(filter.allow_if("tgkill", {equals(0, self), equals(2, static_cast<std::uint64_t>(signal))}));
  }
  return {};
}

// Memory that is or becomes code: none for workers. Control loads the modules of nsswitch.conf(5), which are
// mapped as what they are; nothing is ever writable and code.
Result<void> allow_memory(Filter& filter, ThreadKind kind) {
  SLUICE_TRY(filter.allow_if("mprotect", {has_bits(2, PROT_EXEC, 0)}));
  SLUICE_TRY(filter.allow_if("mmap", {has_bits(2, PROT_EXEC, 0)}));
  if (kind == ThreadKind::kControl) {
    SLUICE_TRY(filter.allow_if("mmap", {has_bits(2, PROT_EXEC | PROT_WRITE, PROT_EXEC)}));
  }
  return {};
}

Result<void> allow_for_control(Filter& filter) {
  for (int family : kFamilies) {
    SLUICE_TRY(filter.allow_if("socket", {equals(0, static_cast<std::uint64_t>(family))}));
  }
  // Threads, no processes: clone(2) of a process is told EPERM, as by a limit. clone3(2) hides its flags in
  // memory, where no filter reads them; the C library then takes clone(2).
  constexpr std::uint64_t kThread = 0x00010000;  // CLONE_THREAD
  SLUICE_TRY(filter.allow_if("clone", {has_bits(0, kThread, kThread)}));
  SLUICE_TRY(filter.answer_if("clone", EPERM, {has_bits(0, kThread, 0)}));
  SLUICE_TRY(filter.answer("clone3", ENOSYS));
  // Nothing is typed into a terminal for others to run.
  SLUICE_TRY(filter.allow_if("ioctl", {{1, SCMP_CMP_NE, TIOCSTI, 0}}));
  // Own limits alone.
  SLUICE_TRY(filter.allow_if("prlimit64", {equals(0, 0)}));
  return filter.allow_if("prlimit64", {equals(0, static_cast<std::uint64_t>(::getpid()))});
}

Result<void> filter_calls(ThreadKind kind) {
  if (kSanitized) {
    return {};  // sanitizers make calls of their own, on every thread
  }
  Filter filter;
  for (std::string_view name : calls_of(kind)) {
    SLUICE_TRY(filter.allow(name));
  }
  SLUICE_TRY(allow_own_signals(filter));
  SLUICE_TRY(allow_memory(filter, kind));
  if (kind == ThreadKind::kControl) {
    SLUICE_TRY(allow_for_control(filter));
  }
  return filter.load();
}

}  // namespace

std::span<const int> kept_capabilities() {
  return kKept;
}

Result<void> confine_process() {
  SLUICE_TRY(keep_few_capabilities());
  ::tzset();  // reads /etc/localtime once, for the log lines of all threads
  SLUICE_TRY(deny_writing(kWritableFiles));
  SLUICE_TRY(watch_refused_calls());
  SLUICE_TRY(filter_calls(ThreadKind::kControl));
  process_is_confined.store(true, std::memory_order_release);
  return {};
}

Result<void> confine_thread(ThreadKind kind) {
  if (!process_is_confined.load(std::memory_order_acquire)) {
    return {};
  }
  own_kind = kind;
  // Threads block signals that are the main thread's; this one is their own fault.
  sigset_t refused;
  ::sigemptyset(&refused);
  ::sigaddset(&refused, SIGSYS);
  ::pthread_sigmask(SIG_UNBLOCK, &refused, nullptr);
  SLUICE_TRY(set_capabilities(CapabilitySet{}));
  return filter_calls(kind);
}

}  // namespace sluice
