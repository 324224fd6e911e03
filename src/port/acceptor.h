// Acceptor: the front door of a port that listens. Takes connections, a bounded number a turn, asks who they
// are, and hands them over with the verdict. Control thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/log_budget.h"
#include "base/result.h"
#include "base/unix_socket.h"
#include "port/peer_policy.h"

namespace sluice {

// Connections taken per turn of the control loop, so that a storm of them leaves it time for the rest (D6).
inline constexpr std::uint32_t kAcceptsPerTurn = 16;

struct AcceptorOptions {
  std::string port;  // "dns"
  std::string path;
  int type = 0;  // SOCK_SEQPACKET, SOCK_STREAM
  PeerPolicy policy;
  bool refuses_descriptors = false;  // UnixListenerOptions
};

class Acceptor {
 public:
  // Who may not connect comes too, with the reason in Peer::refusal: how to say no is the port's.
  using OnPeer = std::function<void(UniqueFd, Peer)>;

  // `log` is the port's, and outlives this.
  static Result<std::unique_ptr<Acceptor>> create(AcceptorOptions options, EventLoop& loop, LogBudget& log,
                                                  OnPeer on_peer);
  ~Acceptor();  // removes the socket's path

  // Takes nobody any more, removes the path, and hands over the socket with the connections that wait in it:
  // with descriptors in them it is not to be closed by this thread.
  UniqueFd release();

 private:
  Acceptor(AcceptorOptions options, EventLoop& loop, LogBudget& log, OnPeer on_peer)
      : options_(std::move(options)), loop_(loop), log_(log), on_peer_(std::move(on_peer)) {}
  void on_connections();
  void pause();

  const AcceptorOptions options_;
  EventLoop& loop_;
  LogBudget& log_;
  const OnPeer on_peer_;
  UnixListener listener_;
  EventLoop::TimerId pause_timer_ = 0;
};

}  // namespace sluice
