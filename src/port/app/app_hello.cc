// The way in: from a connection to who may begin a session.
#include <sys/epoll.h>

#include <algorithm>
#include <exception>
#include <new>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "door/one_message.h"
#include "port/app/app_port_impl.h"

namespace sluice {

namespace {
constexpr std::uint64_t kWelcomeLookNs = 1'000'000;  // at queues that an app waits for
}

void AppPort::Impl::admit(PeerSocket socket, Peer peer) {
  if (options_.doors != nullptr) {
    wait_for_hello(std::move(socket), std::move(peer));
    return;
  }
  Hello hello;
  switch (read_hello(socket.get(), hello)) {
    case HelloRead::kNotYet:
      wait_for_hello(std::move(socket), std::move(peer));
      return;
    case HelloRead::kClosed:
      return;
    case HelloRead::kJudged:
      answer(std::move(socket), peer, hello);
      return;
  }
}

// Who it is, is known before it says a word. Strangers wait too, for a socket that is closed with a hello
// unread in it takes our answer with it; but they never take the place of one who may come in.
void AppPort::Impl::wait_for_hello(PeerSocket socket, Peer peer) {
  if (pending_.size() == kMaxPendingHellos) {
    auto victim =
        std::find_if(pending_.begin(), pending_.end(), [](const Pending& p) { return !p.peer.allowed(); });
    if (victim == pending_.end()) {
      if (!peer.allowed()) {
        answer(std::move(socket), peer, {});
        return;
      }
      victim = pending_.begin();
    }
    refused_.add(1);
    take_pending(victim);
  }
  PendingIt pending = pending_.emplace(pending_.end(), std::move(socket), std::move(peer));
  if (!watch_pending(pending)) {
    pending_.erase(pending);
    return;
  }
  pending->timeout = loop_.once(options_.hello_timeout_ns, [this, pending] {
    hello_timeouts_.add(1);
    PeerSocket late = take_pending(pending);
    send_refusal(late.get(), SLUICE_APP_BAD_HELLO, "no hello came in time");
  });
}

Result<void> AppPort::Impl::watch_pending(PendingIt pending) {
  return loop_.add(
      pending->socket.get(), EPOLLIN | EPOLLRDHUP, [this, pending](std::uint32_t) { on_hello(pending); },
      [this, pending] { take_pending(pending); });
}

PeerSocket AppPort::Impl::take_pending(PendingIt pending) {
  end_door(pending->door);
  loop_.remove(pending->socket.get());
  loop_.cancel(pending->timeout);
  PeerSocket socket = std::move(pending->socket);
  pending_.erase(pending);
  return socket;
}

void AppPort::Impl::on_hello(PendingIt pending) {
  if (options_.doors != nullptr) {
    auto asked =
        open_door(pending->socket, pending->door, [this, pending](std::uint32_t) { on_door(pending); });
    if (!asked) {
      refused_.add(1);
      if (log_budget_.take()) {
        log::error("port {}: {}", options_.name, asked.error().message);
      }
      take_pending(pending);
    }
    return;
  }
  Hello hello;
  const HelloRead read = read_hello(pending->socket.get(), hello);
  take_hello(pending, read, hello);
}

// There is something to read, so a process that reads it need not wait: who says nothing costs none.
Result<void> AppPort::Impl::open_door(const PeerSocket& socket, std::optional<Door>& door,
                                      EventLoop::Callback on_said) {
  auto theirs = SLUICE_TRY(socket.duplicate());
  auto opened = SLUICE_TRY(options_.doors->open(DoorKind::kOneMessage, options_.name, std::move(theirs)));
  loop_.remove(socket.get());
  door = std::move(opened);
  return loop_.add(door->channel.get(), EPOLLIN | EPOLLRDHUP, std::move(on_said));
}

void AppPort::Impl::on_door(PendingIt pending) {
  OneMessage message;
  if (!hear_message_door(pending->door->channel.get(), message)) {
    return;
  }
  end_door(pending->door);
  Hello hello;
  switch (message.report.what) {
    case MessageReport::What::kRead:
      take_hello(pending, judge_read(message.bytes, message.report.had_descriptors != 0, hello), hello);
      return;
    case MessageReport::What::kNotYet:
      if (watch_pending(pending)) {
        return;
      }
      break;
    case MessageReport::What::kClosed:
      break;
  }
  take_pending(pending);
}

void AppPort::Impl::end_door(std::optional<Door>& door) {
  if (door) {
    loop_.remove(door->channel.get());
    options_.doors->end(std::move(*door));
    door.reset();
  }
}

void AppPort::Impl::take_hello(PendingIt pending, HelloRead read, const Hello& hello) {
  switch (read) {
    case HelloRead::kNotYet:
      return;
    case HelloRead::kClosed:
      take_pending(pending);
      return;
    case HelloRead::kJudged: {
      Peer peer = std::move(pending->peer);
      answer(take_pending(pending), peer, hello);
      return;
    }
  }
}

void AppPort::Impl::answer(PeerSocket socket, const Peer& peer, const Hello& hello) {
  const ucred& who = peer.who;
  if (!peer.allowed()) {
    denied_.add(1);
    refuse(socket.get(), SLUICE_APP_DENIED, who, peer.refusal);
    return;
  }
  if (hello.status != SLUICE_APP_OK) {
    refused_.add(1);
    refuse(socket.get(), hello.status, who, hello.sentence);
    return;
  }
  // A client that was killed and started again may be here before the loop has seen the end of the old one.
  if (attached_ && has_ended(attached_->socket.get())) {
    detach("the app closed");
  }
  if (waiting_ && has_ended(waiting_->socket.get())) {
    take_waiting();
  }
  if (attached_ || waiting_) {
    refused_.add(1);
    refuse(socket.get(), SLUICE_APP_BUSY, who,
           fmt::format("port {} is in use by pid {}", options_.name,
                       attached_ ? attached_->who.pid : waiting_->who.pid));
    return;
  }
  if (auto kept = kept_.look(); kept.too_much()) {
    refused_.add(1);
    refuse(socket.get(), SLUICE_APP_FAILED, who,
           fmt::format(
               "programs still keep the memory of {} sessions of port {} that are over, {} MiB: end them",
               kept.sessions, options_.name, kept.bytes >> 20));
    return;
  }
  let_wait(std::move(socket), who, hello.client);
}

// One at a time: who comes meanwhile is told who is there.
void AppPort::Impl::let_wait(PeerSocket socket, const ucred& peer, const std::string& client) {
  const int fd = socket.get();
  if (auto watched = loop_.add(fd, EPOLLRDHUP, [this](std::uint32_t) { take_waiting(); }); !watched) {
    refused_.add(1);
    refuse(fd, SLUICE_APP_FAILED, peer, watched.error().message);
    return;
  }
  waiting_.emplace(Waiting{.socket = std::move(socket), .who = peer, .client = client});
  advance();
}

AppPort::Impl::Waiting AppPort::Impl::take_waiting() {
  loop_.remove(waiting_->socket.get());
  if (waiting_->timer != 0) {
    loop_.cancel(std::exchange(waiting_->timer, 0));
  }
  Waiting taken = std::move(*waiting_);
  waiting_.reset();
  return taken;
}

void AppPort::Impl::look_again(std::uint64_t delay_ns) {
  waiting_->timer = loop_.once(delay_ns, [this] {
    waiting_->timer = 0;
    advance();
  });
}

// Brings the one who waits one step further, as far as it can now.
void AppPort::Impl::advance() {
  if (!waiting_ || waiting_->timer != 0) {
    return;
  }
  if (!waiting_->paid) {
    const std::uint64_t now = now_ns();
    const std::uint64_t wait_ns =
        std::max(attach_budget_.ns_until_ready(now), std::max(shut_until_ns_, now) - now);
    if (wait_ns != 0) {
      attaches_held_.add(1);
      look_again(wait_ns);
      return;
    }
    attach_budget_.take(now);
    waiting_->paid = true;
  }
  if (!memory_) {
    make_memory();
    return;
  }
  if (!options_.owned.empty() && services_.queues.queues_are_opening(options_.id)) {
    if (waiting_->until_ns == 0) {
      waiting_->until_ns = now_ns() + kWelcomeWaitsNs;
    }
    if (now_ns() < waiting_->until_ns) {
      look_again(kWelcomeLookNs);
      return;
    }
  }
  Waiting next = take_waiting();
  auto for_refusal = next.socket.duplicate();  // attach() takes the socket; a refusal still needs it
  Result<void> done;
  try {
    done = attach(std::move(next.socket), next.who, next.client);
  } catch (const std::bad_alloc&) {
    if (attached_) {  // half of it
      detach("no memory is left");
    }
    done = fail("no memory is left");
  }
  if (!done) {
    if (for_refusal) {
      next.socket = PeerSocket(std::move(*for_refusal), options_.doors);
    }
    give_up(next, done.error());
  }
}

void AppPort::Impl::give_up(const Waiting& waiting, const Error& why) {
  refused_.add(1);
  if (log_budget_.take()) {
    log::error("port {}: cannot attach pid {}: {}", options_.name, waiting.who.pid, why.message);
  }
  if (waiting.socket) {
    send_refusal(waiting.socket.get(), SLUICE_APP_FAILED, why.message);
  }
}

void AppPort::Impl::refuse(int socket, sluice_app_status status, const ucred& peer,
                           const std::string& sentence) {
  send_refusal(socket, status, sentence);
  if (log_budget_.take()) {
    log::warn("port {}: refused pid {} of user {}: {}", options_.name, peer.pid, peer.uid, sentence);
  }
}

}  // namespace sluice
