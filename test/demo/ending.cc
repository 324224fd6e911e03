#include "test/demo/ending.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "base/check.h"

namespace sluice::demo {

namespace {

constexpr unsigned char kUsualEnd = 0;
int signal_pipe[2];

void tell(int signal) {
  const int saved = errno;
  const auto number = static_cast<unsigned char>(signal);
  [[maybe_unused]] ssize_t written = ::write(signal_pipe[1], &number, 1);
  errno = saved;
}

pid_t parent_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(file, line);
  const auto name_end = line.rfind(") ");
  int parent = 0;
  return name_end != std::string::npos && std::sscanf(line.c_str() + name_end, ") %*c %d", &parent) == 1
             ? parent
             : 0;
}

// Daemon, apps and pings are all children of this process. Another thread may still start one or reap one.
void end_children() {
  for (bool found = true; found;) {
    found = false;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const pid_t pid = static_cast<pid_t>(std::strtol(entry.path().filename().c_str(), nullptr, 10));
      if (pid > 0 && parent_of(pid) == ::getpid()) {
        found = true;
        ::kill(pid, SIGKILL);
        ::waitpid(pid, nullptr, 0);
      }
    }
  }
}

}  // namespace

Ending::Ending(const test::TempFolder& dir, int seconds, std::function<void()> time_is_over)
    : dir_(dir), seconds_(seconds), time_is_over_(std::move(time_is_over)) {
  SLUICE_CHECK(::pipe2(signal_pipe, O_CLOEXEC) == 0, "pipe2: errno {}", errno);
  thread_ = std::thread([this] { watch(); });
  struct sigaction action{};
  action.sa_handler = tell;
  action.sa_flags = SA_RESTART;
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) {
    ::sigaction(signal, &action, nullptr);
  }
}

Ending::~Ending() {
  tell(kUsualEnd);
  thread_.join();
}

void Ending::watch() {
  pollfd readable{signal_pipe[0], POLLIN, 0};
  int ready = 0;
  do {
    ready = ::poll(&readable, 1, seconds_ * 1000);
  } while (ready < 0 && errno == EINTR);
  unsigned char why = kUsualEnd;
  if (ready > 0 && ::read(signal_pipe[0], &why, 1) == 1 && why == kUsualEnd) {
    return;
  }
  if (ready == 0) {
    std::fprintf(stderr, "demo: gave up after %d seconds\n", seconds_);
    time_is_over_();
  }
  end_children();
  dir_.remove();
  ::_exit(ready == 0 ? 1 : 128 + why);
}

}  // namespace sluice::demo
