#include "test/support/process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

extern char** environ;

namespace sluice::test {

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), output_(std::move(other.output_)) {}

Process& Process::operator=(Process&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(output_, other.output_);
  return *this;
}

Process::~Process() {
  if (pid_ > 0) {
    signal(SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
}

Result<Process> Process::start(const std::vector<std::string>& argv) {
  std::array<int, 2> ends;
  if (::pipe2(ends.data(), O_CLOEXEC) < 0) {
    return fail_errno(errno, "cannot make a pipe");
  }
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, write_end.get(), 1);
  ::posix_spawn_file_actions_adddup2(&actions, write_end.get(), 2);
  std::vector<char*> raw_argv;
  for (const std::string& word : argv) {
    raw_argv.push_back(const_cast<char*>(word.c_str()));
  }
  raw_argv.push_back(nullptr);
  Process process;
  int error = ::posix_spawnp(&process.pid_, raw_argv[0], &actions, nullptr, raw_argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    process.pid_ = -1;
    return fail_errno(error, "cannot start {}", argv[0]);
  }
  process.output_ = std::move(read_end);
  return process;
}

void Process::signal(int number) const {
  if (pid_ > 0) {
    ::kill(pid_, number);
  }
}

Finished Process::wait() {
  Finished finished;
  std::array<char, 4096> buffer;
  for (;;) {
    ssize_t got = ::read(output_.get(), buffer.data(), buffer.size());
    if (got > 0) {
      finished.output.append(buffer.data(), static_cast<std::size_t>(got));
    } else if (got == 0 || errno != EINTR) {
      break;
    }
  }
  int status = 0;
  if (pid_ > 0 && ::waitpid(pid_, &status, 0) == pid_) {
    finished.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  pid_ = -1;
  return finished;
}

Finished run(const std::vector<std::string>& argv) {
  auto process = Process::start(argv);
  if (!process) {
    return Finished{-1, process.error().message};
  }
  return process->wait();
}

}  // namespace sluice::test
