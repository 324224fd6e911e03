// Acceptor: takes the connections of a port that listens, a bounded number a turn, asks who they
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
#include "base/token_bucket.h"
#include "base/unix_socket.h"
#include "port/peer_policy.h"
#include "stats/counter.h"

namespace sluice {

// A storm of connections leaves the control thread time for the rest (D6): so many are taken per turn of its
// loop, and so many of one port at once and then a second. Who comes later waits in the listener's queue.
// Strangers are refused, which costs little, at a rate of their own: they do not use up what the others have.
inline constexpr std::uint32_t kAcceptsPerTurn = 4;
inline constexpr std::uint32_t kConnectionBurst = 64;
inline constexpr std::uint32_t kConnectionsPerSecond = 200;
inline constexpr std::uint32_t kStrangersPerSecond = 2000;
inline constexpr int kConnectionsWaiting = 1024;

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

  // Takes nobody for so long, at least: the port has had enough for now.
  void hold(std::uint64_t ns);
  // How often the budget was used up while somebody waited.
  std::uint64_t held() const { return held_.value(); }

 private:
  Acceptor(AcceptorOptions options, EventLoop& loop, LogBudget& log, OnPeer on_peer)
      : options_(std::move(options)), loop_(loop), log_(log), on_peer_(std::move(on_peer)) {}
  void on_connections();

  const AcceptorOptions options_;
  EventLoop& loop_;
  LogBudget& log_;
  const OnPeer on_peer_;
  UnixListener listener_;
  TokenBucket budget_{1'000'000'000 / kConnectionsPerSecond, kConnectionBurst};
  TokenBucket strangers_budget_{1'000'000'000 / kStrangersPerSecond, kConnectionBurst};
  EventLoop::TimerId hold_timer_ = 0;
  std::uint64_t held_until_ns_ = 0;
  Counter held_;
};

}  // namespace sluice
