#include "test/vhost/mock_front_end.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "base/clock.h"
#include "base/unix_socket.h"

namespace sluice::test {

namespace {
constexpr std::uint64_t kOsPage = 4096;
constexpr std::size_t kMaxSentFds = 253;  // SCM_MAX_FD

std::uint64_t address(const std::byte* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer);
}
}  // namespace

// ---- memory

GuestRam::GuestRam(std::uint64_t bytes, std::uint64_t guest_address)
    : file_(::memfd_create("guest-ram", MFD_CLOEXEC)), guest_address_(guest_address) {
  if (!file_ || ::ftruncate(file_.get(), static_cast<off_t>(bytes)) < 0) {
    throw std::runtime_error("no memory for a guest");
  }
  mapping_ = Mapping::map(file_.get(), bytes, PROT_READ | PROT_WRITE).value();
}

vhost_user_region GuestRam::region() const {
  return {
      .guest_address = guest_address_, .bytes = bytes(), .user_address = address(data()), .file_offset = 0};
}

std::byte* GuestRam::allocate(std::uint64_t bytes, std::uint64_t align) {
  next_ = (next_ + align - 1) / align * align;
  if (next_ + bytes > mapping_.bytes()) {
    throw std::runtime_error("the guest's memory is used up");
  }
  std::byte* place = data() + next_;
  next_ += bytes;
  return place;
}

std::uint64_t GuestRam::guest_address_of(const std::byte* pointer) const {
  return guest_address_ + static_cast<std::uint64_t>(pointer - data());
}

RingAreas RingAreas::split(GuestRam& ram, std::uint32_t entries) {
  return {.descriptors = ram.allocate(16ull * entries, kOsPage),
          .driver_area = ram.allocate(6 + 2ull * entries, 64),
          .device_area = ram.allocate(6 + 8ull * entries, 64)};
}

RingAreas RingAreas::packed(GuestRam& ram, std::uint32_t entries) {
  return {.descriptors = ram.allocate(16ull * entries, kOsPage),
          .driver_area = ram.allocate(4, 64),
          .device_area = ram.allocate(4, 64)};
}

vhost_user_vring_addr place_of(std::uint32_t index, const RingAreas& areas) {
  return {.index = index,
          .flags = 0,
          .descriptors = address(areas.descriptors),
          .device_area = address(areas.device_area),
          .driver_area = address(areas.driver_area),
          .log_address = 0};
}

std::uint64_t BackEndReply::u64() const {
  std::uint64_t value = 0;
  std::memcpy(&value, payload.data(), sizeof(value));
  return value;
}

vhost_user_vring_state BackEndReply::state() const {
  vhost_user_vring_state value{};
  std::memcpy(&value, payload.data(), sizeof(value));
  return value;
}

// ---- connecting

FrontEnd::FrontEnd(UniqueFd socket, Turn turn) : socket_(std::move(socket)), turn_(std::move(turn)) {}

FrontEnd FrontEnd::connect(const std::string& path, Turn turn) {
  const std::uint64_t deadline = now_ns() + kFrontEndDeadlineNs;
  auto socket = connect_to_path(path, SOCK_STREAM);
  while (!socket && socket.error().os_errno == EAGAIN && now_ns() < deadline) {  // its queue is full
    if (turn) {
      turn();
    }
    socket = connect_to_path(path, SOCK_STREAM);
  }
  return FrontEnd(socket ? std::move(*socket) : UniqueFd(), std::move(turn));
}

FrontEnd FrontEnd::accept_at(const std::string& path, Turn turn) {
  auto listener = UnixListener::at(path, SOCK_STREAM);
  if (!listener) {
    throw std::runtime_error(listener.error().message);
  }
  const std::uint64_t deadline = now_ns() + kFrontEndDeadlineNs;
  while (now_ns() < deadline) {
    if (turn) {
      turn();
    }
    UniqueFd socket(::accept4(listener->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket) {
      return FrontEnd(std::move(socket), std::move(turn));
    }
  }
  return FrontEnd(UniqueFd(), std::move(turn));
}

// ---- bytes

bool FrontEnd::wait_for(short events) {
  const std::uint64_t deadline = now_ns() + kFrontEndDeadlineNs;
  while (now_ns() < deadline) {
    if (turn_) {
      turn_();
    }
    pollfd state{.fd = socket_.get(), .events = events, .revents = 0};
    if (::poll(&state, 1, turn_ ? 0 : 100) > 0) {
      return true;
    }
  }
  return false;
}

bool FrontEnd::send_bytes(std::span<const std::byte> bytes, std::span<const int> fds) {
  fds = fds.first(std::min(fds.size(), kMaxSentFds));
  std::vector<std::byte> control(fds.empty() ? 0 : CMSG_SPACE(fds.size_bytes()));
  while (!bytes.empty()) {
    iovec place{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr header{};
    header.msg_iov = &place;
    header.msg_iovlen = 1;
    if (!fds.empty()) {
      header.msg_control = control.data();
      header.msg_controllen = control.size();
      cmsghdr* attached = CMSG_FIRSTHDR(&header);
      attached->cmsg_level = SOL_SOCKET;
      attached->cmsg_type = SCM_RIGHTS;
      attached->cmsg_len = CMSG_LEN(fds.size_bytes());
      std::memcpy(CMSG_DATA(attached), fds.data(), fds.size_bytes());
    }
    ssize_t sent = ::sendmsg(socket_.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      // ETOOMANYREFS: more descriptors are under way than this process may have open.
      if ((errno != EAGAIN && errno != EINTR && errno != ETOOMANYREFS) || !wait_for(POLLOUT)) {
        return false;
      }
      continue;
    }
    fds = {};
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
  }
  return true;
}

bool FrontEnd::send_slowly(std::span<const std::byte> bytes, std::span<const int> fds) {
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (!send_bytes(bytes.subspan(i, 1), i == 0 ? fds : std::span<const int>())) {
      return false;
    }
    if (turn_) {
      turn_();
    }
  }
  return true;
}

std::vector<std::byte> FrontEnd::bytes_of(std::uint32_t request, std::span<const std::byte> payload,
                                          std::uint32_t flags) {
  vhost_user_header header{
      .request = request, .flags = flags, .bytes = static_cast<std::uint32_t>(payload.size())};
  std::vector<std::byte> bytes(sizeof(header) + payload.size());
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::copy(payload.begin(), payload.end(), bytes.begin() + sizeof(header));
  return bytes;
}

// ---- messages

bool FrontEnd::send(std::uint32_t request, std::span<const std::byte> payload, std::span<const int> fds,
                    std::uint32_t flags) {
  return send_bytes(bytes_of(request, payload, flags), fds);
}

bool FrontEnd::send_table(std::span<const GuestRam* const> rams, std::uint32_t flags) {
  vhost_user_mem_table table{};
  table.region_count = static_cast<std::uint32_t>(rams.size());
  std::vector<int> fds;
  for (std::size_t i = 0; i < rams.size(); ++i) {
    table.regions[i] = rams[i]->region();
    fds.push_back(rams[i]->fd());
  }
  const std::size_t bytes = offsetof(vhost_user_mem_table, regions) + rams.size() * sizeof(vhost_user_region);
  return send(VHOST_USER_SET_MEM_TABLE, std::as_bytes(std::span(&table, 1)).first(bytes), fds, flags);
}

std::optional<BackEndReply> FrontEnd::read_reply() {
  BackEndReply reply;
  auto read_to = [this](std::byte* place, std::size_t wanted) {
    std::size_t have = 0;
    while (have < wanted) {
      ssize_t got = ::recv(socket_.get(), place + have, wanted - have, MSG_DONTWAIT);
      if (got > 0) {
        have += static_cast<std::size_t>(got);
      } else if (got == 0 || (errno != EAGAIN && errno != EINTR) || !wait_for(POLLIN)) {
        return false;
      }
    }
    return true;
  };
  if (!read_to(reinterpret_cast<std::byte*>(&reply.header), sizeof(reply.header)) ||
      reply.header.bytes > reply.payload.size() || !read_to(reply.payload.data(), reply.header.bytes)) {
    return std::nullopt;
  }
  return reply;
}

bool FrontEnd::has_reply() {
  std::byte byte;
  return ::recv(socket_.get(), &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 1;
}

std::optional<std::uint64_t> FrontEnd::ask_bytes(std::uint32_t request, std::span<const std::byte> payload,
                                                 std::span<const int> fds, std::uint32_t flags) {
  if (!send(request, payload, fds, flags)) {
    return std::nullopt;
  }
  auto reply = read_reply();
  if (!reply || reply->header.request != request ||
      reply->header.flags != (VHOST_USER_VERSION | VHOST_USER_REPLY) ||
      reply->header.bytes != sizeof(std::uint64_t)) {
    return std::nullopt;
  }
  return reply->u64();
}

bool FrontEnd::wait_closed() {
  const std::uint64_t deadline = now_ns() + kFrontEndDeadlineNs;
  while (now_ns() < deadline) {
    std::byte bytes[256];
    ssize_t got = ::recv(socket_.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
      return true;
    }
    if (got < 0) {
      (void)wait_for(POLLIN);
    }
  }
  return false;
}

// ---- the usual course

std::uint64_t FrontEnd::negotiate(std::uint64_t features, std::uint64_t protocol_features) {
  const std::uint64_t offered = ask(VHOST_USER_GET_FEATURES).value_or(0);
  if (protocol_features != 0) {
    (void)ask(VHOST_USER_GET_PROTOCOL_FEATURES);
    send(VHOST_USER_SET_PROTOCOL_FEATURES, protocol_features);
  }
  send(VHOST_USER_SET_OWNER, std::span<const std::byte>());
  send(VHOST_USER_SET_FEATURES, features);
  return offered;
}

void FrontEnd::set_up_ring(std::uint32_t index, std::uint32_t entries, const RingAreas& areas,
                           std::uint32_t base, int kick, int call) {
  send(VHOST_USER_SET_VRING_NUM, vhost_user_vring_state{index, entries});
  send(VHOST_USER_SET_VRING_BASE, vhost_user_vring_state{index, base});
  send(VHOST_USER_SET_VRING_ADDR, place_of(index, areas));
  auto send_fd = [&](std::uint32_t request, int fd) {
    const std::uint64_t word = fd < 0 ? index | VHOST_USER_VRING_NO_FD : index;
    send(request, word, fd < 0 ? std::span<const int>() : std::span<const int>(&fd, 1));
  };
  send_fd(VHOST_USER_SET_VRING_CALL, call);
  send_fd(VHOST_USER_SET_VRING_KICK, kick);
}

void FrontEnd::enable(std::uint32_t index, bool on) {
  send(VHOST_USER_SET_VRING_ENABLE, vhost_user_vring_state{index, on ? 1u : 0u});
}

std::optional<vhost_user_vring_state> FrontEnd::stop_ring(std::uint32_t index) {
  if (!send(VHOST_USER_GET_VRING_BASE, vhost_user_vring_state{index, 0})) {
    return std::nullopt;
  }
  auto reply = read_reply();
  return reply ? std::optional(reply->state()) : std::nullopt;
}

}  // namespace sluice::test
