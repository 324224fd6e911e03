#include "base/file_access.h"

#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "base/fd.h"

namespace sluice {

namespace {

constexpr std::uint64_t kFirstVersion = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;
// The third version, Linux 6.2: not in the headers of older kernels.
constexpr std::uint64_t kTruncate = std::uint64_t{1} << 14;
// Deeds that a service has no need of once it runs.
constexpr std::uint64_t kWriting =
    kFirstVersion & ~std::uint64_t{LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR |
                                   LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_SOCK};

// 0: this kernel has no landlock, or it is switched off.
long landlock_version() {
  const long version = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  return version < 0 ? 0 : version;
}

Result<UniqueFd> rules_about(std::uint64_t rights) {
  landlock_ruleset_attr attributes{};
  attributes.handled_access_fs = rights;
  UniqueFd rules(static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0)));
  if (!rules) {
    return fail_errno(errno, "cannot make a landlock rule set");
  }
  return rules;
}

Result<void> enter(const UniqueFd& rules) {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1ul, 0ul, 0ul, 0ul) < 0 ||
      ::syscall(SYS_landlock_restrict_self, rules.get(), 0) < 0) {
    return fail_errno(errno, "cannot enter a landlock domain");
  }
  return {};
}

}  // namespace

Result<void> deny_files() {
  if (landlock_version() == 0) {
    return {};
  }
  // Every right of the first version: later ones refine these.
  auto rules = SLUICE_TRY(rules_about(kFirstVersion));
  return enter(rules);
}

Result<bool> deny_writing(std::span<const char* const> writable) {
  const long version = landlock_version();
  if (version == 0) {
    return false;
  }
  auto rules = SLUICE_TRY(rules_about(kWriting | (version >= 3 ? kTruncate : 0)));
  for (const char* path : writable) {
    const UniqueFd file(::open(path, O_PATH | O_CLOEXEC));
    if (!file) {
      continue;
    }
    landlock_path_beneath_attr rule{};
    rule.allowed_access = LANDLOCK_ACCESS_FS_WRITE_FILE;
    rule.parent_fd = file.get();
    if (::syscall(SYS_landlock_add_rule, rules.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0) {
      return fail_errno(errno, "cannot make a landlock rule for {}", path);
    }
  }
  SLUICE_TRY(enter(rules));
  return true;
}

}  // namespace sluice
