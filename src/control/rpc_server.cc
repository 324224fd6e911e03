#include "control/rpc_server.h"

#include <grp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

namespace sluice {

namespace {

constexpr std::size_t kReadBytes = 65536;  // per turn and client (D6)
constexpr int kLinesPerTurn = 16;          // likewise
constexpr int kAcceptsPerTurn = 16;

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return fail("the control socket's path {} is longer than {} bytes", path, sizeof(address.sun_path) - 1);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

const sockaddr* generic(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

// What stands at the path may be replaced: nothing, or a socket that nobody listens on.
Result<void> check_replaceable(const std::string& path, const sockaddr_un& address) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) < 0) {
    if (errno == ENOENT) {
      return {};
    }
    return fail_errno(errno, "cannot look at the control socket {}", path);
  }
  if (!S_ISSOCK(info.st_mode)) {
    return fail("{} exists and is not a socket; remove it or choose another control path", path);
  }
  UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (::connect(probe.get(), generic(address), sizeof(address)) == 0 || errno == EAGAIN) {
    return fail("another sluiced is listening on {}; stop it or choose another control path", path);
  }
  if (errno != ECONNREFUSED && errno != ENOENT && errno != EPROTOTYPE) {
    return fail_errno(errno, "cannot tell whether a daemon listens on {}", path);
  }
  if (errno == EPROTOTYPE) {
    return fail("{} is somebody's socket of another kind; choose another control path", path);
  }
  return {};
}

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

// The socket is made under another name and moved to its own when it has its owner and mode and accepts
// clients: nobody finds it half made, and a dead daemon's socket is replaced in one step.
Result<void> RpcServer::listen() {
  auto address = address_of(options_.path);
  SLUICE_TRY(address);
  std::string staged_path = fmt::format("{}.{}", options_.path, ::getpid());
  auto staged = address_of(staged_path);
  SLUICE_TRY(staged);
  SLUICE_TRY(make_folder(options_.path));
  SLUICE_TRY(check_replaceable(options_.path, *address));

  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener) {
    return fail_errno(errno, "cannot make the control socket");
  }
  ::unlink(staged_path.c_str());
  // Linux takes the mode of the path from that of the socket at bind(2): never more open than in the end.
  ::fchmod(listener.get(), 0600);
  if (::bind(listener.get(), generic(*staged), sizeof(*staged)) < 0) {
    return fail_errno(errno, "cannot make the control socket {}", options_.path);
  }
  auto undo = [&](std::unexpected<Error> error) {
    ::unlink(staged_path.c_str());
    return error;
  };
  if (!options_.group.empty()) {
    const group* entry = ::getgrnam(options_.group.c_str());
    if (entry == nullptr) {
      return undo(fail("there is no group \"{}\" for the control socket", options_.group));
    }
    if (::chown(staged_path.c_str(), static_cast<uid_t>(-1), entry->gr_gid) < 0) {
      return undo(fail_errno(errno, "cannot give the control socket to group {}", options_.group));
    }
  }
  if (::chmod(staged_path.c_str(), options_.group.empty() ? 0600 : 0660) < 0 ||
      ::listen(listener.get(), 16) < 0 || ::rename(staged_path.c_str(), options_.path.c_str()) < 0) {
    return undo(fail_errno(errno, "cannot set up the control socket {}", options_.path));
  }
  struct stat info{};
  if (::stat(options_.path.c_str(), &info) == 0) {
    device_ = info.st_dev;
    inode_ = info.st_ino;
  }
  listener_ = std::move(listener);
  return loop_.add(listener_.get(), EPOLLIN, [this](std::uint32_t) { accept_clients(); });
}

RpcServer::~RpcServer() {
  while (!clients_.empty()) {
    drop(clients_.begin());
  }
  if (!listener_) {
    return;
  }
  loop_.remove(listener_.get());
  struct stat info{};
  if (::stat(options_.path.c_str(), &info) == 0 && info.st_dev == device_ && info.st_ino == inode_) {
    ::unlink(options_.path.c_str());
  }
}

void RpcServer::accept_clients() {
  for (int i = 0; i < kAcceptsPerTurn; ++i) {
    UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
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
    if (!loop_.add(client->fd.get(), EPOLLIN,
                   [this, client](std::uint32_t events) { on_event(client, events); })) {
      clients_.erase(client);  // no room for a watch: the client sees the end
    }
  }
}

void RpcServer::drop(ClientIt client) {
  loop_.cancel(client->stall_timer);
  loop_.cancel(client->resume_timer);
  loop_.remove(client->fd.get());
  clients_.erase(client);
}

void RpcServer::on_event(ClientIt client, std::uint32_t events) {
  if ((events & EPOLLERR) != 0 || ((events & EPOLLIN) != 0 && !read_input(*client))) {
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
  while (client->output.empty() && !client->closing && lines < kLinesPerTurn) {
    auto line = client->input.next();
    if (!line) {
      break;
    }
    ++lines;
    if (line->find_first_not_of(" \t") == std::string_view::npos) {
      continue;  // an empty line asks for nothing
    }
    if (auto reply = methods_.handle(*line)) {
      client->output = std::move(*reply) + "\n";
      if (!write_output(*client)) {
        drop(client);
        return;
      }
    }
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
    client->resume_timer = loop_.once(0, [this, client] {
      client->resume_timer = 0;
      serve_lines(client);
    });
  }
  watch(client);
}

// Reads only from who has taken its replies (and has no lines waiting); gives up on who takes nothing.
void RpcServer::watch(ClientIt client) {
  bool has_output = !client->output.empty();
  bool reads = !has_output && client->resume_timer == 0 && !client->input_ended;
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
