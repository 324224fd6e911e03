#include "port/acceptor.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/clock.h"
#include "base/log.h"

namespace sluice {

namespace {
constexpr std::uint64_t kNoRoomNs = 200'000'000;  // after accept(2) failed for want of descriptors or memory
}  // namespace

Result<std::unique_ptr<Acceptor>> Acceptor::create(AcceptorOptions options, EventLoop& loop, LogBudget& log,
                                                   OnPeer on_peer) {
  SLUICE_TRY(check_policy(options.policy));
  std::unique_ptr<Acceptor> acceptor(new Acceptor(std::move(options), loop, log, std::move(on_peer)));
  const AcceptorOptions& ours = acceptor->options_;
  auto listener =
      UnixListener::at(ours.path, ours.type,
                       {.backlog = kConnectionsWaiting, .refuses_descriptors = ours.refuses_descriptors});
  SLUICE_TRY(listener);
  acceptor->listener_ = std::move(*listener);
  SLUICE_TRY(loop.add(
      acceptor->listener_.fd(), EPOLLIN, [raw = acceptor.get()](std::uint32_t) { raw->on_connections(); },
      [raw = acceptor.get()] { raw->hold(kNoRoomNs); }));
  return acceptor;
}

Acceptor::~Acceptor() {
  (void)release();
}

UniqueFd Acceptor::release() {
  if (hold_timer_ != 0) {
    loop_.cancel(std::exchange(hold_timer_, 0));
  }
  if (listener_) {
    loop_.remove(listener_.fd());
  }
  return listener_.release();
}

void Acceptor::on_connections() {
  for (std::uint32_t i = 0; i < kAcceptsPerTurn && hold_timer_ == 0; ++i) {
    const std::uint64_t now = now_ns();
    const std::uint64_t wait_ns =
        std::max(budget_.ns_until_ready(now), strangers_budget_.ns_until_ready(now));
    if (wait_ns != 0) {
      held_.add(1);
      hold(wait_ns);
      return;
    }
    UniqueFd socket(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket) {
      auto peer = judge_peer(socket.get(), options_.policy, options_.port);
      if (!peer) {
        peer = Peer{.who = {}, .refusal = peer.error().message};
      }
      (peer->allowed() ? budget_ : strangers_budget_).take(now);
      on_peer_(std::move(socket), std::move(*peer));  // never closed here: the port knows how
    } else if (errno == EAGAIN) {
      return;
    } else if (errno != EINTR && errno != ECONNABORTED) {
      if (log_.take()) {
        log::warn("port {}: cannot accept a connection: {}", options_.port, std::strerror(errno));
      }
      hold(kNoRoomNs);
    }
  }
}

void Acceptor::hold(std::uint64_t ns) {
  const std::uint64_t end = now_ns() + ns;
  if (hold_timer_ != 0 && end <= held_until_ns_) {
    return;
  }
  const EventLoop::TimerId timer = loop_.once(ns, [this] {  // first: it may find no memory
    hold_timer_ = 0;
    (void)loop_.modify(listener_.fd(), EPOLLIN);
  });
  if (hold_timer_ != 0) {
    loop_.cancel(hold_timer_);
  }
  hold_timer_ = timer;
  held_until_ns_ = end;
  (void)loop_.modify(listener_.fd(), 0);
}

}  // namespace sluice
