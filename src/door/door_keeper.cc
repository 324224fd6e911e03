#include "door/door_keeper.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "base/burial.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/fd_passing.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "door/undertaker.h"

namespace sluice {

namespace {

constexpr std::uint64_t kTickNs = 250'000'000;
// Bytes that a door has sent and the daemon has not read: some ten datagrams, and with them at most 2800
// descriptors under way. The kernel allows 4096 for all doors together (kMostDescriptors of the zygote).
constexpr int kDoorSendBuffer = 4096;
constexpr const char* kProgramName = "sluice-door";
constexpr const char* kUndertakers = "closing sockets";  // Door::who

Result<std::pair<UniqueFd, UniqueFd>> make_channel(int flags) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
    return fail_errno(errno, "cannot make a channel to a door");
  }
  std::pair<UniqueFd, UniqueFd> both{UniqueFd(ends[0]), UniqueFd(ends[1])};
  if (flags != 0 && ::fcntl(ends[0], F_SETFL, flags) < 0) {
    return fail_errno(errno, "cannot make a channel to a door");
  }
  return both;
}

// One datagram with descriptors; never waits.
bool send_with(int socket, const auto& datagram, std::span<const int> fds) {
  return send_with_fds(socket, std::as_bytes(std::span(&datagram, 1)), fds, MSG_DONTWAIT) ==
         static_cast<ssize_t>(sizeof datagram);
}

}  // namespace

std::string DoorKeeper::default_program() {
  std::error_code failed;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", failed);
  const std::filesystem::path beside = self.parent_path() / kProgramName;
  if (!failed && std::filesystem::exists(beside, failed)) {
    return beside;
  }
  return std::string(SLUICE_LIBEXEC_DIR) + "/" + kProgramName;
}

Result<std::unique_ptr<DoorKeeper>> DoorKeeper::start(const std::string& program) {
  std::unique_ptr<DoorKeeper> keeper(new DoorKeeper(program));
  SLUICE_TRY(keeper->start_zygote());
  return keeper;
}

DoorKeeper::~DoorKeeper() {
  bury_by({});
}

void DoorKeeper::watch_on(EventLoop& loop) {
  loop_ = &loop;
  bury_by([this](UniqueFd fd) { bury(std::move(fd)); });
  checkers_ = std::make_unique<Checkers>(*this, loop);
}

void DoorKeeper::stop_watching() {
  checkers_.reset();
  for (Ending& ending : ending_) {
    bury(std::move(ending.door.channel));
  }
  ending_.clear();
  if (undertaker_) {
    drop_undertaker();
  }
  for (UniqueFd& left : unburied_) {
    (void)left.release();  // the kernel closes it with the process, and does not wait then
  }
  unburied_.clear();
  if (timer_ != 0) {
    loop_->cancel(std::exchange(timer_, 0));
  }
  loop_ = nullptr;
}

Result<void> DoorKeeper::start_zygote() {
  auto channel = SLUICE_TRY(make_channel(0));
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  sigset_t none, defaults;
  ::sigemptyset(&none);
  ::sigfillset(&defaults);
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_adddup2(&files, channel.second.get(), kZygoteSocket);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &defaults);
  char name[] = "sluice-door";
  char* arguments[] = {name, nullptr};
  char* environment[] = {nullptr};
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, program_.c_str(), &files, &attributes, arguments, environment);
  ::posix_spawn_file_actions_destroy(&files);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    return fail_errno(error,
                      "cannot start {}, which reads what guests' front-ends send; install it beside sluiced",
                      program_);
  }
  zygote_ = std::move(channel.first);
  zygotes_.add(1);
  return {};
}

// The daemon's end of the channel of a new door.
Result<UniqueFd> DoorKeeper::ask_for(DoorKind kind, std::uint32_t id, int peer) {
  auto channel = make_channel(O_NONBLOCK);
  SLUICE_TRY(channel);
  if (kind == DoorKind::kGuest && ::setsockopt(channel->second.get(), SOL_SOCKET, SO_SNDBUF, &kDoorSendBuffer,
                                               sizeof kDoorSendBuffer) < 0) {
    return fail_errno(errno, "cannot make a channel to a door");
  }
  const ZygoteRequest request{.what = ZygoteRequest::What::kOpen, .kind = kind, .id = id};
  const std::array<int, 2> fds{channel->second.get(), peer};
  const std::span<const int> given = std::span(fds).first(peer < 0 ? 1 : 2);
  if (!send_with(zygote_.get(), request, given)) {
    if (errno != EPIPE && errno != ECONNRESET) {
      return fail_errno(errno, "no door can be had");
    }
    log::error("the process that makes doors is gone; another one is started");
    SLUICE_TRY(start_zygote());
    if (!send_with(zygote_.get(), request, given)) {
      return fail_errno(errno, "no door can be had");
    }
  }
  return std::move(channel->first);
}

Result<void> DoorKeeper::need_room_for(const std::string& who) {
  if (stuck(who) >= kMostStuckDoorsOfOne || stuck_for_ports() >= kMostStuckDoors) {
    return fail("{} doors of {} and {} in all wait in the kernel for what their peers sent; end those peers",
                stuck(who), who, stuck_for_ports());
  }
  if (ending(who) < kMostEndingDoorsOfOne) {
    return {};
  }
  look_at_endings(now_ns());
  if (const std::size_t count = ending(who); count >= kMostEndingDoorsOfOne) {
    return fail("{} doors of {} have not ended yet", count, who);
  }
  return {};
}

std::size_t DoorKeeper::ending(const std::string& who) const {
  return static_cast<std::size_t>(
      std::ranges::count_if(ending_, [&who](const Ending& ending) { return ending.door.who == who; }));
}

Result<Door> DoorKeeper::open(DoorKind kind, const std::string& who, UniqueFd peer) {
  // A checker works for all ports, so one port's stuck doors do not keep it from being made.
  if (auto room = kind == DoorKind::kChecker ? Result<void>() : need_room_for(who); !room) {
    bury(std::move(peer));
    return std::unexpected(std::move(room.error()));
  }
  const std::uint32_t id = ++last_id_;
  auto channel = ask_for(kind, id, peer.get());
  if (!channel) {
    bury(std::move(peer));
    return std::unexpected(std::move(channel.error()));
  }
  if (kind != DoorKind::kChecker) {
    opened_.add(1);
  }
  return Door{.id = id, .channel = std::move(*channel), .who = who};
}

void DoorKeeper::kill(std::uint32_t id) {
  const ZygoteRequest request{.what = ZygoteRequest::What::kKill, .kind = {}, .id = id};
  (void)send_with(zygote_.get(), request, {});
  killed_.add(1);
}

void DoorKeeper::end(Door door) {
  // The door reads the messages to it, then the end. It does not wait to send something (tell_daemon()).
  ::shutdown(door.channel.get(), SHUT_WR);
  ending_.push_back({.door = std::move(door), .since_ns = now_ns()});
  watch();
}

// ---- what descriptors come with

CheckId DoorKeeper::check(CheckRequest request) {
  SLUICE_CHECK(checkers_ != nullptr, "nobody watches");
  return checkers_->check(std::move(request));
}

void DoorKeeper::cancel_check(CheckId id) {
  if (checkers_ != nullptr) {
    checkers_->cancel(id);
  }
}

// ---- sockets that are closed elsewhere

void DoorKeeper::bury(UniqueFd socket) {
  if (!socket) {
    return;
  }
  unburied_.push_back(std::move(socket));
  bury_more();
  watch();
}

// False: none can be had at present.
bool DoorKeeper::has_undertaker() {
  if (undertaker_) {
    return true;
  }
  if (stuck(kUndertakers) >= kMostStuckDoors) {
    return false;
  }
  const std::uint32_t id = ++last_id_;
  auto channel = ask_for(DoorKind::kUndertaker, id, -1);
  if (!channel) {
    return false;
  }
  undertaker_ = std::make_unique<Undertaker>();
  undertaker_->door = Door{.id = id, .channel = std::move(*channel), .who = kUndertakers};
  (void)refuse_descriptors(undertaker_->door.channel.get());
  if (loop_ != nullptr) {
    (void)loop_->add(undertaker_->door.channel.get(), EPOLLIN, [this](std::uint32_t) {
      look_at_undertaker(now_ns());
      bury_more();
    });
  }
  return true;
}

void DoorKeeper::bury_more() {
  const std::uint64_t now = now_ns();
  bool replaced = false;
  while (!unburied_.empty() && has_undertaker()) {
    std::array<int, kMostBuriedAtOnce> fds;
    const std::size_t count = std::min(unburied_.size(), fds.size());
    std::transform(unburied_.begin(), unburied_.begin() + static_cast<std::ptrdiff_t>(count), fds.begin(),
                   [](const UniqueFd& socket) { return socket.get(); });
    const char byte = 0;
    if (!send_with(undertaker_->door.channel.get(), byte, std::span(fds).first(count))) {
      if (unburied_.size() < kMostUnburied || std::exchange(replaced, true)) {
        break;  // it is full, or gone: the next tick looks
      }
      const std::uint32_t full = undertaker_->door.id;
      drop_undertaker();
      kill(full);
      continue;
    }
    if (undertaker_->under_way.empty()) {
      undertaker_->heard_since_ns = now;
    }
    undertaker_->under_way.push_back(count);
    // Not the last references: the undertaker keeps its own until it is told.
    unburied_.erase(unburied_.begin(), unburied_.begin() + static_cast<std::ptrdiff_t>(count));
    undertaker_->owed_word = true;
  }
  if (undertaker_ && undertaker_->owed_word) {
    undertaker_->owed_word = !send_with(undertaker_->door.channel.get(), char{}, {});
  }
}

void DoorKeeper::look_at_undertaker(std::uint64_t now) {
  if (!undertaker_) {
    return;
  }
  char answer = 0;
  // An undertaker's answer never comes with descriptors: a datagram that does is not taken.
  while (!undertaker_->under_way.empty() &&
         next_datagram(undertaker_->door.channel.get()) == NextDatagram::kBytes &&
         ::recv(undertaker_->door.channel.get(), &answer, 1, MSG_DONTWAIT) > 0) {
    undertaker_->heard_since_ns = now;
    buried_.add(undertaker_->under_way.front());
    undertaker_->under_way.pop_front();
  }
  if (hung_up(undertaker_->door.channel.get())) {
    drop_undertaker();
  } else if (!undertaker_->under_way.empty() && now - undertaker_->heard_since_ns > kDoorEndsNs) {
    drop_undertaker();  // it waits for what it closes; another one closes the rest
  }
}

void DoorKeeper::drop_undertaker() {
  if (loop_ != nullptr) {
    loop_->remove(undertaker_->door.channel.get());
  }
  end(std::move(undertaker_->door));
  undertaker_.reset();
}

// ---- ends

void DoorKeeper::watch() {
  if (loop_ != nullptr && timer_ == 0) {
    timer_ = loop_->every(kTickNs, [this] { tick(); });
  }
}

void DoorKeeper::tick() {
  const std::uint64_t now = now_ns();
  look_at_undertaker(now);
  look_at_endings(now);
  bury_more();
  const bool quiet = ending_.empty() && unburied_.empty() && (!undertaker_ || undertaker_->under_way.empty());
  if (quiet) {
    loop_->cancel(std::exchange(timer_, 0));
  }
}

void DoorKeeper::look_at_endings(std::uint64_t now) {
  for (auto ending = ending_.begin(); ending != ending_.end();) {
    const std::string& who = ending->door.who;
    if (hung_up(ending->door.channel.get())) {
      if (ending->stuck) {
        --stuck_;
        --stuck_of_[who];
        log::info("{}: a door that was stuck has ended", who);
      }
      if (ending->door.who != kUndertakers) {
        bury(std::move(ending->door.channel));  // with what it passed on and nobody has read
      }
      ending = ending_.erase(ending);
      continue;
    }
    const std::uint64_t age = now - ending->since_ns;
    if (age > kDoorEndsNs && !ending->killed) {
      ending->killed = true;
      kill(ending->door.id);
    } else if (age > 2 * kDoorEndsNs && !ending->stuck) {
      ending->stuck = true;
      ++stuck_;
      if (++stuck_of_[who] == 1) {
        log::warn(
            "{}: a door waits in the kernel for what its peer sent, and cannot be killed; it harms nobody",
            who);
      }
    }
    ++ending;
  }
}

std::uint32_t DoorKeeper::stuck_for_ports() const {
  return stuck_ - stuck(kUndertakers);
}

std::uint32_t DoorKeeper::stuck(const std::string& who) const {
  auto found = stuck_of_.find(who);
  return found == stuck_of_.end() ? 0 : found->second;
}

void DoorKeeper::visit(CounterVisitor& visitor) const {
  visitor.counter("doors_opened", opened_.value());
  visitor.gauge("doors_ending", ending_.size());
  visitor.gauge("doors_stuck", stuck_);
  visitor.counter("doors_killed", killed_.value());
  visitor.counter("buried", buried_.value());
  visitor.gauge("unburied", unburied_.size());
  visitor.counter("zygotes", zygotes_.value());
  if (checkers_ != nullptr) {
    checkers_->visit(visitor);
  }
}

}  // namespace sluice
