#include "test/system/silent_fuse.h"

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "base/check.h"

namespace sluice::test {

namespace {

constexpr int kAnswerMs = 30'000;  // only ever met by a failure

// An errno; -1: no answer came.
int read_answer(int socket) {
  pollfd state{.fd = socket, .events = POLLIN, .revents = 0};
  std::int32_t answer = -1;
  if (::poll(&state, 1, kAnswerMs) <= 0 || ::recv(socket, &answer, sizeof answer, 0) != sizeof answer) {
    return -1;
  }
  return answer;
}

}  // namespace

Result<std::unique_ptr<SilentFuse>> SilentFuse::start(std::uint32_t silent_to) {
  int ends[2];
  SLUICE_CHECK(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0, "errno {}", errno);
  std::unique_ptr<SilentFuse> fuse(new SilentFuse);
  fuse->orders_.reset(ends[0]);
  const UniqueFd theirs(ends[1]);
  std::string silent = std::to_string(silent_to), parent = std::to_string(::getpid());
  char name[] = SILENT_FUSE;
  char* arguments[] = {name, silent.data(), parent.data(), nullptr};
  char* environment[] = {nullptr};
  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_adddup2(&files, theirs.get(), 3);
  const int error = ::posix_spawn(&fuse->server_, name, &files, nullptr, arguments, environment);
  ::posix_spawn_file_actions_destroy(&files);
  SLUICE_CHECK(error == 0, "{}: errno {}", name, error);
  if (const int answer = read_answer(fuse->orders_.get()); answer != 0) {
    return fail("no file of a FUSE server of our own: {}", answer < 0 ? "no answer" : std::strerror(answer));
  }
  return fuse;
}

SilentFuse::~SilentFuse() {
  ::kill(server_, SIGKILL);  // waits for nobody, so it dies
  int status = 0;
  while (::waitpid(server_, &status, 0) < 0 && errno == EINTR) {
  }
}

int SilentFuse::order(const FuseOrder& order) {
  SLUICE_CHECK(::send(orders_.get(), &order, sizeof order, MSG_NOSIGNAL) == sizeof order, "errno {}", errno);
  return read_answer(orders_.get());
}

int SilentFuse::send(const std::string& path, int type, std::span<const std::byte> bytes, std::uint32_t user,
                     std::uint32_t copies) {
  FuseOrder what{.what = FuseOrder::What::kSend, .type = type, .user = user, .copies = copies};
  SLUICE_CHECK(path.size() < sizeof what.path && bytes.size() <= sizeof what.data);
  std::memcpy(what.path, path.data(), path.size());
  std::memcpy(what.data, bytes.data(), bytes.size());
  what.bytes = static_cast<std::uint32_t>(bytes.size());
  return order(what);
}

int SilentFuse::send_wake(const std::string& path) {
  FuseOrder what{.what = FuseOrder::What::kSendWake};
  SLUICE_CHECK(path.size() < sizeof what.path);
  std::memcpy(what.path, path.data(), path.size());
  return order(what);
}

void SilentFuse::hang_up() {
  (void)order({.what = FuseOrder::What::kHangUp});
}

}  // namespace sluice::test
