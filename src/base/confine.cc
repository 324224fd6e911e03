#include "base/confine.h"

#include <cap-ng.h>
#include <grp.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>

namespace sluice {

Result<void> become(std::uint32_t id) {
  if (::geteuid() != 0) {
    return {};
  }
  ::capng_clear(CAPNG_SELECT_BOTH);
  ::capng_apply(CAPNG_SELECT_BOUNDS);  // now: another user may not, and what is left goes with the user
  if (::setgroups(0, nullptr) < 0 || ::setresgid(id, id, id) < 0 || ::setresuid(id, id, id) < 0) {
    return fail_errno(errno, "cannot become user {}", id);
  }
  return {};
}

Result<void> drop_all_capabilities() {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1ul, 0ul, 0ul, 0ul) < 0) {
    return fail_errno(errno, "cannot set no_new_privs");
  }
  ::capng_clear(CAPNG_SELECT_BOTH);
  if (::capng_apply(CAPNG_SELECT_CAPS) != 0) {
    return fail_errno(errno, "cannot give up capabilities");
  }
  return {};
}

Result<void> allow_system_calls(std::span<const std::string_view> names, std::span<const NarrowCall> narrow) {
#if defined(SLUICE_SANITIZED)
  (void)names;
  (void)narrow;
  return {};
#else
  std::unique_ptr<void, decltype(&::seccomp_release)> filter(::seccomp_init(SCMP_ACT_KILL_PROCESS),
                                                             &::seccomp_release);
  if (!filter) {
    return fail("cannot make a filter of system calls: out of memory");
  }
  for (std::string_view name : names) {
    const int call = ::seccomp_syscall_resolve_name(std::string(name).c_str());
    if (call == __NR_SCMP_ERROR) {
      return fail("there is no system call \"{}\"", name);
    }
    if (call < 0) {
      continue;  // of other machines
    }
    if (const int error = ::seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 0); error < 0) {
      return fail_errno(-error, "cannot allow the system call {}", name);
    }
  }
  for (const NarrowCall& call : narrow) {
    const int number = ::seccomp_syscall_resolve_name(std::string(call.name).c_str());
    const scmp_arg_cmp is_value{
        .arg = call.argument, .op = SCMP_CMP_MASKED_EQ, .datum_a = 0xffff'ffff, .datum_b = call.value};
    if (const int error = ::seccomp_rule_add_array(filter.get(), SCMP_ACT_ALLOW, number, 1, &is_value);
        error < 0) {
      return fail_errno(-error, "cannot allow the system call {} with {}", call.name, call.value);
    }
  }
  if (const int error = ::seccomp_load(filter.get()); error < 0) {
    return fail_errno(-error, "cannot load the filter of system calls (is CONFIG_SECCOMP_FILTER there?)");
  }
  return {};
#endif
}

}  // namespace sluice
