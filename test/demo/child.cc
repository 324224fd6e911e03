#include "test/demo/child.h"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "test/demo/app.h"
#include "test/demo/writer.h"

namespace sluice::demo {

namespace {

// PARENT PROGRAM ARGUMENT...
int run_on_leash(std::vector<std::string> arguments) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (arguments.size() < 2 || std::to_string(::getppid()) != arguments[0]) {
    return 1;  // the demo has ended meanwhile
  }
  std::vector<char*> argv;
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    argv.push_back(arguments[i].data());
  }
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  std::fprintf(stderr, "cannot run %s: %s\n", argv[0], std::strerror(errno));
  return 127;
}

}  // namespace

std::vector<std::string> child_command(const std::string& mode, const std::vector<std::string>& arguments) {
  // By its path and not as /proc/self/exe: behind nsenter that would be nsenter.
  static const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  std::vector<std::string> command{self, "--child", mode};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

std::vector<std::string> leashed(const std::vector<std::string>& argv) {
  std::vector<std::string> arguments{std::to_string(::getpid())};
  arguments.insert(arguments.end(), argv.begin(), argv.end());
  return child_command("leash", arguments);
}

int run_child(const std::vector<std::string>& arguments) {
  const std::string mode = arguments.empty() ? "" : arguments[0];
  const std::vector<std::string> rest(arguments.begin() + (arguments.empty() ? 0 : 1), arguments.end());
  if (mode == "leash") {
    return run_on_leash(rest);
  }
  if (mode == "receive" && rest.size() == 3) {
    return receive_packets(rest[0], rest[1], static_cast<unsigned>(std::stoul(rest[2])));
  }
  if (mode == "write" && rest.size() == 1) {
    return try_to_write(rest[0]);
  }
  std::fprintf(stderr, "demo: no such child\n");
  return 2;
}

void run_on(unsigned cpu) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(cpu, &cpus);
  ::sched_setaffinity(0, sizeof(cpus), &cpus);
}

}  // namespace sluice::demo
