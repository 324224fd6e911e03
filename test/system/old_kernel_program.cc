// Runs a program as on a kernel before Linux 6.16: no socket can keep descriptors off (SO_PASSRIGHTS).
#include <seccomp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

namespace {

constexpr unsigned kPassRights = 83;  // SO_PASSRIGHTS, which old headers lack

}  // namespace

int main(int count, char** arguments) {
  scmp_filter_ctx filter = ::seccomp_init(SCMP_ACT_ALLOW);
  if (count < 2 || filter == nullptr ||
      ::seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOPROTOOPT), SCMP_SYS(setsockopt), 2,
                         SCMP_A1(SCMP_CMP_EQ, SOL_SOCKET), SCMP_A2(SCMP_CMP_EQ, kPassRights)) != 0 ||
      ::seccomp_load(filter) != 0) {
    std::fputs("cannot play an old kernel\n", stderr);
    return 1;
  }
  ::execvp(arguments[1], arguments + 1);
  std::perror(arguments[1]);
  return 1;
}
