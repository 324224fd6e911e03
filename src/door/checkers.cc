#include "door/checkers.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <new>
#include <span>
#include <utility>

#include "base/clock.h"
#include "base/fd_passing.h"
#include "door/channel.h"
#include "door/checker.h"

namespace sluice {

namespace {

constexpr const char* kNobodys = "checking descriptors";  // Door::who

}  // namespace

CheckerSaid hear_checker(int channel, Checked& checked) {
  std::array<std::byte, sizeof(CheckReport) + kMostCheckedBytes> datagram;
  const MessageWithFds message = receive_with_fds(channel, datagram, MSG_DONTWAIT);
  const ssize_t got = message.bytes;
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
    return CheckerSaid::kNothing;
  }
  checked = {};
  if (got > 0) {
    for (const ReceivedFd fd : message.fds) {
      checked.fds.push_back(PeerFd::take(fd));  // of a known kind: it was looked at
    }
  }
  if (got == 1) {
    return CheckerSaid::kFree;
  }
  CheckReport report;
  if (got < static_cast<ssize_t>(sizeof report)) {
    return CheckerSaid::kEnd;
  }
  std::memcpy(&report, datagram.data(), sizeof report);
  checked.what = report.what == CheckReport::What::kPassed ? Checked::What::kPassed : Checked::What::kRefused;
  const auto said = std::span(datagram).first(static_cast<std::size_t>(got)).subspan(sizeof report);
  checked.bytes.assign(said.begin(), said.end());
  return CheckerSaid::kChecked;
}

Checkers::~Checkers() {
  for (Checker& checker : checkers_) {
    loop_.remove(checker.door.channel.get());
    doors_.end(std::move(checker.door));
  }
  if (timer_ != 0) {
    loop_.cancel(timer_);
  }
}

CheckId Checkers::check(CheckRequest request) {
  const CheckId id = ++last_id_;
  waiting_.push_back({.id = id, .request = std::move(request), .since_ns = now_ns()});
  watch();
  give_work();
  return id;
}

void Checkers::cancel(CheckId id) {
  if (std::erase_if(waiting_, [id](const Work& work) { return work.id == id; }) > 0) {
    return;
  }
  const Place checker =
      std::ranges::find_if(checkers_, [id](const Checker& each) { return each.work && each.work->id == id; });
  if (checker != checkers_.end()) {
    checker->work.reset();
    drop(checker, Checked::What::kLost, checker->who);  // it may wait for what it has taken
  }
}

void Checkers::visit(CounterVisitor& visitor) const {
  visitor.counter("checks", checks_.value());
  visitor.counter("checks_refused", refused_.value());
  visitor.gauge("checkers", checkers_.size());
}

// ---- work

void Checkers::give_work() {
  while (!waiting_.empty()) {
    if (present_ == checkers_.end()) {
      present_ = start();
    }
    if (present_ == checkers_.end() || present_->busy) {
      return;  // the next tick looks
    }
    Work& work = waiting_.front();
    const std::byte byte{};
    if (send_with_fds(present_->door.channel.get(), std::span(&byte, 1), std::span(&work.request.channel, 1),
                      MSG_DONTWAIT) != 1) {
      drop(present_, Checked::What::kLost, kNobodys);  // it has died; the next tick starts another
      return;
    }
    present_->busy = true;
    present_->since_ns = now_ns();
    present_->who = work.request.who;
    present_->work = std::move(work);
    waiting_.pop_front();
    checks_.add(1);
  }
}

// The end of the list means that no checker can be had at present.
Checkers::Place Checkers::start() {
  auto door = doors_.open(DoorKind::kChecker, kNobodys, {});
  if (!door) {
    return checkers_.end();
  }
  checkers_.push_back({.door = std::move(*door), .since_ns = now_ns(), .who = {}, .work = {}});
  const Place started = std::prev(checkers_.end());
  auto watched = loop_.add(
      started->door.channel.get(), EPOLLIN, [this, started](std::uint32_t) { on_checker(started); },
      [this, started] { drop(started, Checked::What::kLost, kNobodys); });
  if (!watched) {
    doors_.end(std::move(started->door));
    checkers_.erase(started);
    return checkers_.end();
  }
  return started;
}

void Checkers::on_checker(Place checker) {
  Checked checked;
  switch (hear_checker(checker->door.channel.get(), checked)) {
    case CheckerSaid::kNothing:
      return;
    case CheckerSaid::kEnd:
      drop(checker, Checked::What::kLost, kNobodys);
      return;
    case CheckerSaid::kFree:
      on_free(checker);
      return;
    case CheckerSaid::kChecked:
      break;
  }
  if (checked.what == Checked::What::kRefused) {
    refused_.add(1);
    drop(checker, Checked::What::kRefused, checker->who);
  } else if (checker->work) {
    Work work = std::move(*checker->work);
    checker->work.reset();
    answer(std::move(work), std::move(checked));
  }
}

void Checkers::on_free(Place checker) {
  checker->busy = false;
  checker->since_ns = now_ns();
  if (checker != present_) {
    drop(checker, Checked::What::kLost, kNobodys);  // another has taken over
  }
  give_work();
}

void Checkers::answer(Work work, Checked checked) {
  try {
    work.request.done(std::move(checked));
  } catch (const std::bad_alloc&) {
    work.request.no_memory();
    std::rethrow_exception(std::current_exception());
  }
}

// ---- ends

void Checkers::drop(Place checker, Checked::What why, std::string blamed) {
  loop_.remove(checker->door.channel.get());
  if (checker == present_) {
    present_ = checkers_.end();
  }
  Door door = std::move(checker->door);
  std::optional<Work> work = std::move(checker->work);
  checkers_.erase(checker);
  door.who = std::move(blamed);
  doors_.end(std::move(door));
  if (work) {
    answer(std::move(*work), {.what = why, .bytes = {}, .fds = {}});
  }
}

void Checkers::watch() {
  if (timer_ == 0) {
    timer_ = loop_.every(times_.soon_ns, [this] { tick(); });
  }
}

void Checkers::tick() {
  const std::uint64_t now = now_ns();
  if (present_ != checkers_.end()) {
    const std::uint64_t age = now - present_->since_ns;
    if (present_->busy && age > times_.soon_ns) {
      present_ = checkers_.end();  // it is left to its work
    } else if (!present_->busy && age > times_.idle_ns) {
      drop(present_, Checked::What::kLost, kNobodys);
    }
  }
  drop_who_does_not_end(now);
  give_up_waiting(now);
  give_work();
  if (checkers_.empty() && waiting_.empty()) {
    loop_.cancel(std::exchange(timer_, 0));
  }
}

// One at a time: an answer may ask for, or cancel, another check.
void Checkers::drop_who_does_not_end(std::uint64_t now) {
  for (;;) {
    const Place stuck = std::ranges::find_if(checkers_, [this, now](const Checker& checker) {
      return checker.busy && now > checker.since_ns + times_.ends_ns;
    });
    if (stuck == checkers_.end()) {
      return;
    }
    refused_.add(1);
    drop(stuck, Checked::What::kRefused, stuck->who);
  }
}

void Checkers::give_up_waiting(std::uint64_t now) {
  while (!waiting_.empty() && now > waiting_.front().since_ns + times_.ends_ns) {
    Work work = std::move(waiting_.front());
    waiting_.pop_front();
    answer(std::move(work), {});
  }
}

}  // namespace sluice
