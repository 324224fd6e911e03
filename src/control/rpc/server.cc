#include "control/rpc/server.h"

#include <grp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/clock.h"

namespace sluice {

namespace {

constexpr std::size_t kReadBytes = 65536;  // per turn and client (D6)
constexpr int kLinesPerTurn = 16;          // likewise
constexpr int kAcceptsPerTurn = 16;
constexpr std::uint64_t kHeldLookNs = 2'000'000;  // at whether a held reply may go

// The last folder only: what is above it is the system's.
Result<void> make_folder(const std::string& path) {
  std::string folder = std::filesystem::path(path).parent_path();
  if (::mkdir(folder.c_str(), 0755) < 0 && errno != EEXIST) {
    return fail_errno(errno, "cannot make the folder {} for the control socket", folder);
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<RpcServer>> RpcServer::create(RpcServerOptions options, EventLoop& loop,
                                                     const RpcMethods& methods) {
  std::unique_ptr<RpcServer> server(new RpcServer(std::move(options), loop, methods));
  SLUICE_TRY(server->listen());
  return server;
}

Result<void> RpcServer::listen() {
  UnixListenerOptions how{.mode = 0600, .group = {}, .backlog = 16, .refuses_descriptors = true};
  if (!options_.group.empty()) {
    const group* entry = ::getgrnam(options_.group.c_str());
    if (entry == nullptr) {
      return fail("there is no group \"{}\" for the control socket", options_.group);
    }
    how.group = entry->gr_gid;
    how.mode = 0660;
  }
  SLUICE_TRY(make_folder(options_.path));
  auto listener = UnixListener::at(options_.path, SOCK_STREAM, how);
  if (!listener) {
    return with_context("control socket", std::move(listener.error()));
  }
  listener_ = std::move(*listener);
  return loop_.add(listener_.fd(), EPOLLIN, [this](std::uint32_t) { accept_clients(); });
}

RpcServer::~RpcServer() {
  while (!clients_.empty()) {
    drop(clients_.begin());
  }
  if (listener_) {
    loop_.remove(listener_.fd());
  }
}

void RpcServer::accept_clients() {
  for (int i = 0; i < kAcceptsPerTurn; ++i) {
    UniqueFd fd(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) {
      return;
    }
    if (clients_.size() >= kMaxRpcClients) {
      ++cut_off_;
      std::string text = rpc_text(rpc_error(nullptr, RpcCode::kFailed,
                                            "too many clients on the control socket; try again")) +
                         "\n";
      [[maybe_unused]] ssize_t sent = ::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      continue;
    }
    clients_.emplace_back();
    ClientIt client = std::prev(clients_.end());
    client->fd = std::move(fd);
    client->watched = EPOLLIN;
    if (!loop_.add(
            client->fd.get(), EPOLLIN, [this, client](std::uint32_t events) { on_event(client, events); },
            [this, client] { run_out_of_memory(client); })) {
      clients_.erase(client);  // no room for a watch: the client sees the end
    }
  }
}

// A request that needs more than there is ends its connection.
void RpcServer::run_out_of_memory(ClientIt client) {
  ++cut_off_;
  drop(client);
}

void RpcServer::drop(ClientIt client) {
  loop_.cancel(client->stall_timer);
  loop_.cancel(client->resume_timer);
  loop_.cancel(client->held_timer);
  loop_.remove(client->fd.get());
  clients_.erase(client);
}

void RpcServer::on_event(ClientIt client, std::uint32_t events) {
  const bool left = (events & EPOLLHUP) != 0 && !client->held.empty();  // nobody waits for the reply any more
  if (left || (events & EPOLLERR) != 0 || ((events & EPOLLIN) != 0 && !read_input(*client))) {
    drop(client);
    return;
  }
  if (!write_output(*client)) {
    drop(client);
    return;
  }
  serve_lines(client);
}

// False: the connection is broken.
bool RpcServer::read_input(Client& client) {
  char chunk[kReadBytes];
  ssize_t got = ::recv(client.fd.get(), chunk, sizeof(chunk), 0);
  if (got < 0) {
    return errno == EAGAIN || errno == EINTR;
  }
  client.input_ended = got == 0;
  client.input.append({chunk, static_cast<std::size_t>(got)});
  return true;
}

// False: the connection is broken.
bool RpcServer::write_output(Client& client) {
  while (client.sent < client.output.size()) {
    ssize_t put = ::send(client.fd.get(), client.output.data() + client.sent,
                         client.output.size() - client.sent, MSG_NOSIGNAL);
    if (put < 0) {
      return errno == EAGAIN || errno == EINTR;
    }
    client.sent += static_cast<std::size_t>(put);
    loop_.cancel(client.stall_timer);  // it moves; watch() starts the time anew
    client.stall_timer = 0;
  }
  client.output = std::string();  // a large reply's memory goes at once
  client.sent = 0;
  return true;
}

void RpcServer::serve_lines(ClientIt client) {
  int lines = 0;
  while (client->output.empty() && client->held.empty() && !client->closing && lines < kLinesPerTurn) {
    auto line = client->input.next();
    if (!line) {
      break;
    }
    ++lines;
    if (line->find_first_not_of(" \t") == std::string_view::npos) {
      continue;  // an empty line asks for nothing
    }
    if (auto reply = methods_.handle(*line)) {
      if (methods_.is_held()) {
        hold(client, std::move(*reply) + "\n");
        break;
      }
      client->output = std::move(*reply) + "\n";
      if (!write_output(*client)) {
        drop(client);
        return;
      }
    }
  }
  if (!client->held.empty()) {
    watch(client);
    return;
  }
  bool more = lines == kLinesPerTurn && client->output.empty();
  if (!more && client->output.empty() && client->input.too_long() && !client->closing) {
    ++cut_off_;
    client->closing = true;
    client->output = rpc_text(rpc_error(nullptr, RpcCode::kParseError,
                                        fmt::format("a request is longer than {} bytes", kMaxRequestBytes))) +
                     "\n";
    if (!write_output(*client)) {
      drop(client);
      return;
    }
  }
  if (!more && client->output.empty() && (client->closing || client->input_ended)) {
    drop(client);
    return;
  }
  if (more && client->resume_timer == 0) {
    client->resume_timer = loop_.once(
        0,
        [this, client] {
          client->resume_timer = 0;
          serve_lines(client);
        },
        [this, client] { run_out_of_memory(client); });
  }
  watch(client);
}

void RpcServer::hold(ClientIt client, std::string reply) {
  client->held = std::move(reply);
  client->held_until_ns = now_ns() + kMaxHeldNs;
  client->held_timer = loop_.every(kHeldLookNs, [this, client] { look_at_held(client); });
}

void RpcServer::look_at_held(ClientIt client) {
  if (methods_.is_settled() || now_ns() >= client->held_until_ns) {
    loop_.cancel(std::exchange(client->held_timer, 0));
    client->output = std::exchange(client->held, {});
    if (!write_output(*client)) {
      drop(client);
      return;
    }
    serve_lines(client);
  }
}

// Reads only from who has taken its replies (and has no lines waiting); gives up on who takes nothing.
void RpcServer::watch(ClientIt client) {
  bool has_output = !client->output.empty();
  bool reads = !has_output && client->held.empty() && client->resume_timer == 0 && !client->input_ended;
  std::uint32_t events = (has_output ? std::uint32_t{EPOLLOUT} : 0u) | (reads ? std::uint32_t{EPOLLIN} : 0u);
  if (events != client->watched) {
    client->watched = events;
    if (!loop_.modify(client->fd.get(), events)) {
      drop(client);
      return;
    }
  }
  if (has_output && client->stall_timer == 0) {
    client->stall_timer = loop_.once(options_.stall_timeout_ns, [this, client] {
      ++cut_off_;
      drop(client);
    });
  } else if (!has_output && client->stall_timer != 0) {
    loop_.cancel(client->stall_timer);
    client->stall_timer = 0;
  }
}

}  // namespace sluice
