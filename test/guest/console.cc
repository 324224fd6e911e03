#include "test/guest/console.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>

#include "test/support/eventually.h"

extern char** environ;

namespace sluice::test {

namespace {

// Every byte goes through as it is, both ways.
bool make_raw(const char* terminal) {
  UniqueFd fd(::open(terminal, O_RDWR | O_NOCTTY | O_CLOEXEC));
  termios settings{};
  if (!fd || ::tcgetattr(fd.get(), &settings) < 0) {
    return false;
  }
  ::cfmakeraw(&settings);
  return ::tcsetattr(fd.get(), TCSANOW, &settings) == 0;
}

int spawn(pid_t& pid, const std::vector<std::string>& argv, const char* terminal) {
  std::vector<char*> raw_argv;
  for (const std::string& word : argv) {
    raw_argv.push_back(const_cast<char*>(word.c_str()));
  }
  raw_argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, 0, terminal, O_RDWR, 0);
  ::posix_spawn_file_actions_adddup2(&actions, 0, 1);
  ::posix_spawn_file_actions_adddup2(&actions, 0, 2);
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
  int error = ::posix_spawnp(&pid, raw_argv[0], &actions, &attributes, raw_argv.data(), environ);
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&actions);
  return error;
}

}  // namespace

Result<std::unique_ptr<Console>> Console::start(const std::vector<std::string>& argv) {
  std::unique_ptr<Console> console(new Console);
  UniqueFd terminal(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  std::array<char, 64> name{};
  if (!terminal || ::grantpt(terminal.get()) < 0 || ::unlockpt(terminal.get()) < 0 ||
      ::ptsname_r(terminal.get(), name.data(), name.size()) != 0 || !make_raw(name.data())) {
    return fail_errno(errno, "cannot make a terminal");
  }
  std::vector<std::string> words{"setpriv", "--pdeathsig", "KILL"};
  words.insert(words.end(), argv.begin(), argv.end());
  if (int error = spawn(console->pid_, words, name.data()); error != 0) {
    console->pid_ = -1;
    return fail_errno(error, "cannot start {}", argv[0]);
  }
  console->terminal_ = std::move(terminal);
  console->reader_ = std::thread([raw = console.get()] { raw->read(); });
  return console;
}

Console::~Console() {
  kill();
}

void Console::read() {
  std::array<char, 4096> buffer;
  // The terminal has no slave until the child has opened it, and none when it has ended: both read as EIO.
  for (;;) {
    ssize_t got = ::read(terminal_.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EIO && running()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // lint: allow(sleep) until it is there
      continue;
    }
    if (got < 0 && errno == EINTR) {
      continue;
    }
    std::lock_guard lock(mutex_);
    if (got > 0) {
      text_.append(buffer.data(), static_cast<std::size_t>(got));
    }
    ended_ = got <= 0;
    more_.notify_all();
    if (ended_) {
      return;
    }
  }
}

bool Console::running() const {
  siginfo_t info{};
  return pid_ > 0 && ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid != pid_;
}

void Console::write(const std::string& text) {
  for (std::size_t done = 0; done < text.size();) {
    ssize_t put = ::write(terminal_.get(), text.data() + done, text.size() - done);
    if (put < 0 && errno != EINTR) {
      return;  // it has ended; who waits for its answer will see
    }
    done += put > 0 ? static_cast<std::size_t>(put) : 0;
  }
}

std::string Console::text() const {
  return since(0);
}

std::size_t Console::mark() const {
  std::lock_guard lock(mutex_);
  return text_.size();
}

std::string Console::since(std::size_t mark) const {
  std::lock_guard lock(mutex_);
  return mark < text_.size() ? text_.substr(mark) : "";
}

std::size_t Console::wait_for(const std::string& what, std::size_t from, std::chrono::seconds deadline) {
  auto found = [&] {
    std::size_t at = text_.find(what, from);
    return at == std::string::npos ? at : at + what.size();
  };
  auto hopeless = [&] {
    return ended_ || (!last_words_.empty() && text_.find(last_words_) != std::string::npos);
  };
  std::size_t end = std::string::npos;
  eventually(
      [&] {
        std::unique_lock lock(mutex_);
        more_.wait_for(lock, std::chrono::milliseconds(20),
                       [&] { return (end = found()) != std::string::npos || hopeless(); });
        return end != std::string::npos || hopeless();
      },
      deadline);
  return end;
}

void Console::give_up_at(const std::string& last_words) {
  std::lock_guard lock(mutex_);
  last_words_ = last_words;
}

void Console::signal(int number) const {
  if (pid_ > 0) {
    ::kill(pid_, number);
  }
}

int Console::wait(std::chrono::seconds deadline) {
  if (pid_ > 0) {
    if (!eventually([&] { return !running(); }, deadline)) {
      signal(SIGKILL);
    }
    reader_.join();  // it asks for the pid; nobody else has the terminal open, so it ends with the program
    int status = 0;
    ::waitpid(pid_, &status, 0);
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    pid_ = -1;
  }
  return status_;
}

int Console::kill() {
  signal(SIGKILL);
  return wait();
}

}  // namespace sluice::test
