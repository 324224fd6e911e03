#include "control/rpc/client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "base/clock.h"
#include "control/rpc/protocol.h"

namespace sluice {

using nlohmann::json;

Result<RpcClient> RpcClient::connect(const std::string& path, int timeout_ms) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return fail("the socket path {} is longer than {} bytes", path, sizeof(address.sun_path) - 1);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  RpcClient client;
  client.path_ = path;
  client.timeout_ms_ = timeout_ms;
  client.fd_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  // connect(2) to a Unix socket waits while the backlog is full, for as long as the send timeout says.
  timeval timeout{timeout_ms / 1000, (timeout_ms % 1000) * 1000};
  ::setsockopt(client.fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
  if (::connect(client.fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) < 0) {
    if (errno == ENOENT || errno == ECONNREFUSED) {
      return fail_errno(errno, "sluiced does not listen on {}; is it running, and is --socket right?", path);
    }
    return fail_errno(errno, "cannot connect to sluiced at {}", path);
  }
  return client;
}

Result<void> RpcClient::wait(short events, std::uint64_t deadline_ns) {
  for (;;) {
    std::uint64_t now = now_ns();
    if (now >= deadline_ns) {
      return fail("sluiced at {} did not answer within {} ms", path_, timeout_ms_);
    }
    pollfd poll{fd_.get(), events, 0};
    int ready = ::poll(&poll, 1, static_cast<int>((deadline_ns - now) / 1'000'000 + 1));
    if (ready > 0) {
      return {};
    }
    if (ready < 0 && errno != EINTR) {
      return fail_errno(errno, "cannot wait for sluiced at {}", path_);
    }
  }
}

Result<void> RpcClient::send_line(const std::string& line) {
  std::uint64_t deadline = now_ns() + static_cast<std::uint64_t>(timeout_ms_) * 1'000'000;
  std::string text = line + "\n";
  std::size_t sent = 0;
  while (sent < text.size()) {
    ssize_t put = ::send(fd_.get(), text.data() + sent, text.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (put >= 0) {
      sent += static_cast<std::size_t>(put);
    } else if (errno == EAGAIN) {
      SLUICE_TRY(wait(POLLOUT, deadline));
    } else if (errno != EINTR) {
      return fail_errno(errno, "sluiced at {} is gone", path_);
    }
  }
  return {};
}

Result<std::string> RpcClient::receive_line() {
  std::uint64_t deadline = now_ns() + static_cast<std::uint64_t>(timeout_ms_) * 1'000'000;
  std::size_t searched = 0;
  for (;;) {
    if (std::size_t end = input_.find('\n', searched); end != std::string::npos) {
      std::string line = input_.substr(0, end);
      input_.erase(0, end + 1);
      return line;
    }
    searched = input_.size();
    if (searched > kMaxReplyBytes + 4096) {
      return fail("sluiced at {} sends a reply of more than {} bytes", path_, kMaxReplyBytes);
    }
    char chunk[65536];
    ssize_t got = ::recv(fd_.get(), chunk, sizeof(chunk), MSG_DONTWAIT);
    if (got > 0) {
      input_.append(chunk, static_cast<std::size_t>(got));
    } else if (got == 0) {
      return fail("sluiced at {} closed the connection", path_);
    } else if (errno == EAGAIN) {
      SLUICE_TRY(wait(POLLIN, deadline));
    } else if (errno != EINTR) {
      return fail_errno(errno, "sluiced at {} is gone", path_);
    }
  }
}

Result<json> RpcClient::call(const std::string& method, const json& params) {
  std::uint64_t id = ++last_id_;
  SLUICE_TRY(send_line(rpc_text({{"jsonrpc", "2.0"}, {"method", method}, {"params", params}, {"id", id}})));
  auto line = SLUICE_TRY(receive_line());
  json reply = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!reply.is_object()) {
    return fail("what listens on {} does not speak as sluiced does", path_);
  }
  if (auto error = reply.find("error"); error != reply.end() && error->is_object()) {
    int os_errno = 0;
    if (auto data = error->find("data"); data != error->end() && data->is_object()) {
      os_errno = data->value("errno", 0);
    }
    return std::unexpected(
        Error{error->value("message", "sluiced reports an error without a message"), os_errno});
  }
  if (!reply.contains("result") || reply.value("id", json()) != id) {
    return fail("what listens on {} does not speak as sluiced does", path_);
  }
  return std::move(reply["result"]);
}

}  // namespace sluice
