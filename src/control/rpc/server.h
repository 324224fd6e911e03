// RpcServer: the control socket. A Unix stream socket on the control thread's loop, one request or batch per
// line.
#pragma once

#include <list>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "base/unix_socket.h"
#include "control/rpc/protocol.h"

namespace sluice {

inline constexpr std::size_t kMaxRpcClients = 64;

struct RpcServerOptions {
  std::string path;
  std::string group;  // may use the socket too: mode 0660; empty: 0600
  std::uint64_t stall_timeout_ns =
      10'000'000'000;  // a client that takes nothing of its reply for so long is cut off
};

// Trust: whoever may open the socket is the operator and may do everything; the limits here are there so that
// a client that hangs or errs does not take the daemon with it. A client has one reply at a time in the
// daemon: its next line is looked at when it has taken the reply before.
class RpcServer {
 public:
  // Replaces the socket of a daemon that is dead. A living one, or a file that is no socket, is an error.
  static Result<std::unique_ptr<RpcServer>> create(RpcServerOptions options, EventLoop& loop,
                                                   const RpcMethods& methods);
  ~RpcServer();  // removes the path, if it is still this server's

  std::size_t client_count() const { return clients_.size(); }
  std::uint64_t cut_off_count() const { return cut_off_; }

 private:
  struct Client {
    UniqueFd fd;
    LineBuffer input;
    std::string output;
    std::size_t sent = 0;
    std::uint32_t watched = 0;  // events asked for
    EventLoop::TimerId stall_timer = 0;
    EventLoop::TimerId resume_timer = 0;
    std::string held;  // a reply that waits until what it says is so
    std::uint64_t held_until_ns = 0;
    EventLoop::TimerId held_timer = 0;
    bool closing = false;  // when its output is gone
    bool input_ended = false;
  };
  using ClientIt = std::list<Client>::iterator;

  RpcServer(RpcServerOptions options, EventLoop& loop, const RpcMethods& methods)
      : options_(std::move(options)), loop_(loop), methods_(methods) {}
  Result<void> listen();
  void accept_clients();
  void on_event(ClientIt client, std::uint32_t events);
  bool read_input(Client& client);
  void serve_lines(ClientIt client);
  void hold(ClientIt client, std::string reply);
  void look_at_held(ClientIt client);
  bool write_output(Client& client);
  void watch(ClientIt client);
  void drop(ClientIt client);
  void run_out_of_memory(ClientIt client);

  RpcServerOptions options_;
  EventLoop& loop_;
  const RpcMethods& methods_;
  UnixListener listener_;
  std::list<Client> clients_;
  std::uint64_t cut_off_ = 0;
};

}  // namespace sluice
