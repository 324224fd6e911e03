#include "handshake.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>

namespace sluice::inline v1::client {
namespace {

constexpr std::size_t kMaxFds = 253;  // SCM_MAX_FD of the kernel (include/net/scm.h)

std::string cannot_attach(const std::string& path) {
  return "cannot attach to " + path + ": ";
}

Error connect_error(const std::string& path, int os_errno) {
  switch (os_errno) {
    case ENOENT:
      return error(ErrorCode::kNoDaemon, cannot_attach(path) +
                                             "there is no such socket; is sluiced running, and does its "
                                             "configuration have a port of this name?");
    case ECONNREFUSED:
      return error(ErrorCode::kNoDaemon, cannot_attach(path) + "nobody listens there; is sluiced running?");
    case EACCES:
    case EPERM:
      return error(ErrorCode::kDenied, cannot_attach(path) + "this user may not open the socket");
    case EPROTOTYPE:
      return error(ErrorCode::kProtocol, cannot_attach(path) + "the socket is not one of a Sluice port");
    default:
      return system_error(cannot_attach(path) + "connect", os_errno);
  }
}

// What the daemon refuses with: its own sentence, with ours in front.
Error refusal(const std::string& path, const sluice_app_welcome& welcome) {
  std::string said(welcome.message, ::strnlen(welcome.message, sizeof(welcome.message)));
  auto make = [&](ErrorCode code, std::string what) {
    return error(code, cannot_attach(path) + std::move(what) + (said.empty() ? "" : ": " + said));
  };
  switch (welcome.status) {
    case SLUICE_APP_DENIED:
      return make(ErrorCode::kDenied, "denied");
    case SLUICE_APP_BUSY:
      return make(ErrorCode::kBusy, "busy");
    case SLUICE_APP_BAD_VERSION:
      return make(ErrorCode::kVersion, "other version");
    case SLUICE_APP_BAD_HELLO:
      return make(ErrorCode::kProtocol, "the daemon did not understand");
    case SLUICE_APP_FAILED:
      return make(ErrorCode::kRefused, "the daemon could not");
    default:
      return make(ErrorCode::kProtocol, "unknown answer " + std::to_string(welcome.status));
  }
}

bool file_holds(const Descriptor& fd, std::uint64_t bytes) {
  struct stat info{};
  return ::fstat(fd.get(), &info) == 0 && info.st_size >= 0 &&
         static_cast<std::uint64_t>(info.st_size) >= bytes;
}

// Nothing in the welcome can make us touch memory outside the mappings later on. Null: all right; else what
// is wrong.
const char* find_fault(const Welcome& welcome) {
  const sluice_app_welcome& w = welcome.message;
  auto power_of_two = [](std::uint32_t n) { return std::has_single_bit(n) && n <= (1u << 30); };
  if (w.lane_count == 0 || w.lane_count > SLUICE_APP_MAX_LANES) {
    return "lane_count";
  }
  if (welcome.fds.size() != kFirstLaneFd + 2u * w.lane_count) {
    return "number of descriptors";
  }
  if (!power_of_two(w.rx_entries) || !power_of_two(w.back_entries) || !power_of_two(w.tx_entries)) {
    return "ring size";
  }
  if (w.page_bytes == 0 || w.page_count == 0 ||
      w.rx_arena_bytes < std::uint64_t{w.page_count} * w.page_bytes) {
    return "rx_arena_bytes";
  }
  const std::uint64_t lane_slots_bytes = std::uint64_t{w.tx_entries} * w.tx_slot_bytes;  // < 2^62
  if (w.tx_slot_bytes == 0 || lane_slots_bytes > UINT32_MAX ||  // sluice_tx_entry::offset has 32 bits
      lane_slots_bytes * w.lane_count > w.tx_arena_bytes || lane_slots_bytes * w.lane_count > UINT32_MAX) {
    return "tx_arena_bytes";
  }
  const std::uint64_t daemon_lane =
      SLUICE_LANE_DAEMON_RX_ENTRIES + std::uint64_t{w.rx_entries} * sizeof(sluice_rx_entry);
  const std::uint64_t app_lane = SLUICE_LANE_APP_BACK_ENTRIES +
                                 std::uint64_t{w.back_entries} * sizeof(std::uint32_t) +
                                 std::uint64_t{w.tx_entries} * sizeof(sluice_tx_entry);
  auto lanes_fit = [&](std::uint64_t stride, std::uint64_t lane, std::uint64_t segment) {
    return stride >= lane && stride % SLUICE_CACHE_LINE == 0 && stride <= segment / w.lane_count;
  };
  if (!lanes_fit(w.daemon_lane_stride, daemon_lane, w.daemon_segment_bytes)) {
    return "daemon_lane_stride";
  }
  if (!lanes_fit(w.app_lane_stride, app_lane, w.app_segment_bytes)) {
    return "app_lane_stride";
  }
  // A file that is shorter than its mapping would be SIGBUS.
  if (!file_holds(welcome.fds[kRxArenaFd], w.rx_arena_bytes) ||
      !file_holds(welcome.fds[kDaemonSegmentFd], w.daemon_segment_bytes) ||
      !file_holds(welcome.fds[kAppSegmentFd], w.app_segment_bytes) ||
      !file_holds(welcome.fds[kTxArenaFd], w.tx_arena_bytes)) {
    return "size of a segment";
  }
  return nullptr;
}

std::vector<Descriptor> take_descriptors(msghdr& message) {
  std::vector<Descriptor> fds;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
  return fds;
}

}  // namespace

Expected<std::string> socket_path(std::string_view name_or_path) {
  std::string path(name_or_path);
  if (path.find('/') == std::string::npos) {
    const char* folder = std::getenv("SLUICE_RUN_DIR");
    path = std::string(folder != nullptr && *folder != '\0' ? folder : "/run/sluice") + "/" + path + ".sock";
  }
  if (name_or_path.empty() || path.find('\0') != std::string::npos ||
      path.size() >= sizeof(sockaddr_un::sun_path)) {
    return error(ErrorCode::kInvalid, "\"" + std::string(name_or_path) +
                                          "\" is no port's name and no socket's path" +
                                          " (a path may have at most 107 bytes)");
  }
  return path;
}

Expected<Descriptor> send_hello(const std::string& path, const std::string& client_name) {
  Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) {
    return system_error("cannot make a socket");
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), std::min(path.size(), sizeof(address.sun_path) - 1));
  // A Unix socket connects at once or not at all.
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno == EAGAIN) {
      return Descriptor();
    }
    return connect_error(path, errno);
  }
  sluice_app_hello hello{};
  hello.magic = SLUICE_APP_MAGIC;
  hello.version = SLUICE_APP_VERSION;
  client_name.copy(hello.client, sizeof(hello.client) - 1);
  if (::send(socket.get(), &hello, sizeof(hello), MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof(hello))) {
    return system_error(cannot_attach(path) + "send");
  }
  return socket;
}

Expected<std::optional<Welcome>> receive_welcome(int socket, const std::string& path) {
  Welcome welcome;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxFds)> control{};
  iovec bytes{&welcome.message, sizeof(welcome.message)};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
    return std::optional<Welcome>{};
  }
  if (got < 0 && errno != ECONNRESET) {
    return system_error(cannot_attach(path) + "receive");
  }
  if (got <= 0) {
    return error(ErrorCode::kRefused, cannot_attach(path) + "the daemon hung up without an answer");
  }
  welcome.fds = take_descriptors(message);
  if (got != static_cast<ssize_t>(sizeof(welcome.message)) ||
      (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || welcome.message.magic != SLUICE_APP_MAGIC) {
    return error(ErrorCode::kProtocol,
                 cannot_attach(path) + ((message.msg_flags & MSG_CTRUNC) != 0
                                            ? "not all descriptors arrived; is RLIMIT_NOFILE too low?"
                                            : "what answered there is not sluiced"));
  }
  if (welcome.message.status != SLUICE_APP_OK) {
    return refusal(path, welcome.message);
  }
  if (welcome.message.version != SLUICE_APP_VERSION) {
    return error(ErrorCode::kVersion, cannot_attach(path) + "other version: the daemon speaks version " +
                                          std::to_string(welcome.message.version) +
                                          ", this library version " + std::to_string(SLUICE_APP_VERSION));
  }
  if (const char* fault = find_fault(welcome)) {
    return error(ErrorCode::kProtocol, cannot_attach(path) + "the daemon's welcome is impossible: " + fault);
  }
  return std::optional<Welcome>(std::move(welcome));
}

Expected<bool> send_mapped(int socket, const std::string& path) {
  sluice_app_mapped mapped{};
  mapped.magic = SLUICE_APP_MAGIC;
  mapped.version = SLUICE_APP_VERSION;
  if (::send(socket, &mapped, sizeof(mapped), MSG_NOSIGNAL | MSG_DONTWAIT) !=
      static_cast<ssize_t>(sizeof(mapped))) {
    return system_error(cannot_attach(path) + "send");
  }
  return true;
}

Expected<bool> receive_served(int socket, const std::string& path) {
  sluice_app_served served{};
  const ssize_t got = ::recv(socket, &served, sizeof(served), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
    return false;
  }
  if (got <= 0) {
    return error(ErrorCode::kRefused, cannot_attach(path) + "the daemon hung up without an answer");
  }
  if (got != static_cast<ssize_t>(sizeof(served)) || served.magic != SLUICE_APP_MAGIC ||
      served.version != SLUICE_APP_VERSION || served.status != SLUICE_APP_OK) {
    return error(ErrorCode::kProtocol, cannot_attach(path) + "what answered there is not sluiced");
  }
  return true;
}

}  // namespace sluice::inline v1::client
