#include "test/support/net_ns.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "base/check.h"

namespace sluice::test {

namespace {

void write_sysctl(const char* path, const char* value) {
  UniqueFd file(::open(path, O_WRONLY | O_CLOEXEC));
  if (file) {
    [[maybe_unused]] ssize_t written = ::write(file.get(), value, 1);
  }
}

}  // namespace

Result<NetNs> NetNs::create() {
  NetNs ns;
  int error = 0;
  // A thread of its own, so that the caller's thread never leaves its namespace.
  std::thread([&] {
    if (::unshare(CLONE_NEWNET) < 0) {
      error = errno;
      return;
    }
    ns.fd_.reset(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    error = ns.fd_ ? 0 : errno;
    write_sysctl("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    write_sysctl("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
  }).join();
  if (error != 0) {
    return fail_errno(error, "cannot make a network namespace");
  }
  Finished up = ns.command("ip link set lo up");
  if (!up.ok()) {
    return fail("cannot use the new network namespace: {}", up.output);
  }
  return ns;
}

std::string NetNs::path() const {
  return fmt::format("/proc/{}/fd/{}", ::getpid(), fd_.get());
}

void NetNs::enter() const {
  SLUICE_CHECK(::setns(fd_.get(), CLONE_NEWNET) == 0, "setns: errno {}", errno);
}

NetNs::Inside::Inside(const NetNs& ns) : home_(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)) {
  SLUICE_CHECK(home_, "cannot open this thread's namespace: errno {}", errno);
  ns.enter();
}

NetNs::Inside::~Inside() {
  SLUICE_CHECK(::setns(home_.get(), CLONE_NEWNET) == 0, "setns: errno {}", errno);
}

Finished NetNs::command(const std::string& shell) const {
  return test::run({"nsenter", "--net=" + path(), "--", "/bin/sh", "-c", shell});
}

Result<Process> NetNs::spawn(const std::vector<std::string>& argv) const {
  std::vector<std::string> inside{"nsenter", "--net=" + path(), "--"};
  inside.insert(inside.end(), argv.begin(), argv.end());
  return Process::start(inside);
}

std::string why_no_root_and_xdp() {
  if (::geteuid() != 0) {
    return "needs root (network namespaces, XDP)";
  }
  UniqueFd socket(::socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0));
  if (!socket) {
    return "this kernel has no AF_XDP, or a sandbox forbids it";
  }
  UniqueFd map(::bpf_map_create(BPF_MAP_TYPE_XSKMAP, "probe", 4, 4, 1, nullptr));
  if (!map) {
    return "bpf(2) cannot make an XSKMAP here";
  }
  auto ns = NetNs::create();
  return ns ? "" : ns.error().message;
}

}  // namespace sluice::test
