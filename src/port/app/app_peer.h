// AppPeer: an app of the tests, made of abi/ alone, that can also misbehave: every word it may write is in
// reach.
#pragma once

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "abi/app.h"
#include "base/fd.h"
#include "ring/spsc.h"

namespace sluice::test {

inline UniqueFd connect_to(const std::string& path) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) < 0) {
    return {};
  }
  return socket;
}

inline sluice_app_hello good_hello(const char* name = "peer") {
  sluice_app_hello hello{};
  hello.magic = SLUICE_APP_MAGIC;
  hello.version = SLUICE_APP_VERSION;
  std::strncpy(hello.client, name, sizeof(hello.client) - 1);
  return hello;
}

// One message, with descriptors if there are any.
inline bool send_raw(int socket, const void* data, std::size_t bytes, std::span<const int> fds = {}) {
  iovec place{const_cast<void*>(data), bytes};
  msghdr header{};
  header.msg_iov = &place;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 16)] = {};
  if (!fds.empty()) {
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* attached = CMSG_FIRSTHDR(&header);
    attached->cmsg_level = SOL_SOCKET;
    attached->cmsg_type = SCM_RIGHTS;
    attached->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(attached), fds.data(), fds.size_bytes());
  }
  return ::sendmsg(socket, &header, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes);
}

struct Answer {
  sluice_app_welcome welcome{};
  std::vector<UniqueFd> fds;
};

// The daemon's answer, if it is there; none also when the daemon has closed.
inline std::optional<Answer> read_answer(int socket) {
  Answer answer;
  iovec place{&answer.welcome, sizeof(answer.welcome)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 253)];
  msghdr header{};
  header.msg_iov = &place;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  if (::recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != sizeof(answer.welcome)) {
    return std::nullopt;
  }
  for (cmsghdr* each = CMSG_FIRSTHDR(&header); each != nullptr; each = CMSG_NXTHDR(&header, each)) {
    std::size_t count = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(each) + i * sizeof(int), sizeof(fd));
      answer.fds.emplace_back(fd);
    }
  }
  return answer;
}

class AppPeer {
 public:
  struct Lane {
    // Raw: what the app may write.
    sluice_ring_consumer* rx_word;
    sluice_ring_producer* back_word;
    sluice_ring_producer* tx_word;
    std::uint32_t* back_entries;
    sluice_tx_entry* tx_entries;
    const sluice_lane_stats* stats;
    // Well behaved: rings over the same words.
    RingConsumer<sluice_rx_entry> rx;
    RingProducer<std::uint32_t> back;
    RingProducer<sluice_tx_entry> tx;
    int wake_app;
    int wake_daemon;
    std::uint32_t first_slot;  // offset of TX slot 0
  };

  AppPeer(UniqueFd socket, Answer answer)
      : welcome(answer.welcome), socket_(std::move(socket)), fds_(std::move(answer.fds)) {
    rx_arena_ = *Mapping::map(fds_[0].get(), welcome.rx_arena_bytes, PROT_READ);
    daemon_ = *Mapping::map(fds_[1].get(), welcome.daemon_segment_bytes, PROT_READ);
    app_ = *Mapping::map(fds_[2].get(), welcome.app_segment_bytes, PROT_READ | PROT_WRITE);
    tx_arena_ = *Mapping::map(fds_[3].get(), welcome.tx_arena_bytes, PROT_READ | PROT_WRITE);
    for (std::uint32_t i = 0; i < welcome.lane_count; ++i) {
      lanes.push_back(make_lane(i));
    }
    const sluice_app_mapped mapped = mapped_message();
    send_raw(socket_.get(), &mapped, sizeof(mapped));
  }

  static sluice_app_mapped mapped_message() {
    return {.magic = SLUICE_APP_MAGIC, .version = SLUICE_APP_VERSION, .reserved = 0};
  }

  // Whether the daemon has said that it serves this peer; asked until it has.
  bool take_served() {
    sluice_app_served served{};
    return ::recv(socket_.get(), &served, sizeof(served), MSG_DONTWAIT) == sizeof(served) &&
           served.status == SLUICE_APP_OK;
  }

  int socket() const { return socket_.get(); }
  void close_socket() { socket_.reset(); }
  void close_descriptors() { fds_.clear(); }  // the mappings stay
  int fd(std::size_t i) const { return fds_[i].get(); }
  std::size_t fd_count() const { return fds_.size(); }
  const std::byte* rx_arena() const { return rx_arena_.data(); }
  std::byte* tx_arena() const { return tx_arena_.data(); }
  std::byte* app_segment() const { return app_.data(); }
  std::span<const std::byte> frame(const sluice_rx_entry& entry) const {
    return {rx_arena() + std::size_t{entry.page} * welcome.page_bytes + entry.offset, entry.length};
  }

  // Reads one entry of the lane, if there is one.
  std::optional<sluice_rx_entry> receive(std::size_t lane = 0) {
    if (lanes[lane].rx.peek(1) == 0) {
      return std::nullopt;
    }
    sluice_rx_entry entry = lanes[lane].rx.read(0);
    lanes[lane].rx.release(1);
    return entry;
  }
  void give_back(std::uint32_t page, std::size_t lane = 0) {
    auto& ring = lanes[lane].back;
    if (ring.reserve(1) == 1) {
      ring.entry(0) = page;
      ring.submit(1);
    }
  }
  // Where the next frame to send goes, and the offset that names it.
  std::uint32_t next_slot(std::size_t lane = 0) const {
    const Lane& l = lanes[lane];
    return l.first_slot + (l.tx.produced() & (welcome.tx_entries - 1)) * welcome.tx_slot_bytes;
  }
  bool send(std::uint32_t offset, std::uint32_t length, std::size_t lane = 0) {
    auto& ring = lanes[lane].tx;
    if (ring.reserve(1) == 0) {
      return false;
    }
    ring.entry(0) = {.offset = offset, .length = length};
    ring.submit(1);
    return true;
  }
  bool send_frame(std::span<const std::byte> frame, std::size_t lane = 0) {
    std::uint32_t slot = next_slot(lane);
    std::memcpy(tx_arena() + slot, frame.data(), frame.size());
    return send(slot, static_cast<std::uint32_t>(frame.size()), lane);
  }

  const sluice_app_welcome welcome;
  std::vector<Lane> lanes;

 private:
  Lane make_lane(std::uint32_t i) {
    const std::byte* daemon = daemon_.data() + i * welcome.daemon_lane_stride;
    std::byte* app = app_.data() + i * welcome.app_lane_stride;
    Lane lane{};
    lane.rx_word = reinterpret_cast<sluice_ring_consumer*>(app + SLUICE_LANE_APP_RX_CONSUMER);
    lane.back_word = reinterpret_cast<sluice_ring_producer*>(app + SLUICE_LANE_APP_BACK_PRODUCER);
    lane.tx_word = reinterpret_cast<sluice_ring_producer*>(app + SLUICE_LANE_APP_TX_PRODUCER);
    lane.back_entries = reinterpret_cast<std::uint32_t*>(app + SLUICE_LANE_APP_BACK_ENTRIES);
    lane.tx_entries = reinterpret_cast<sluice_tx_entry*>(
        app + SLUICE_LANE_APP_BACK_ENTRIES + std::size_t{welcome.back_entries} * sizeof(std::uint32_t));
    lane.stats = reinterpret_cast<const sluice_lane_stats*>(daemon + SLUICE_LANE_DAEMON_STATS);
    lane.rx = {lane.rx_word, reinterpret_cast<const sluice_rx_entry*>(daemon + SLUICE_LANE_DAEMON_RX_ENTRIES),
               reinterpret_cast<const sluice_ring_producer*>(daemon + SLUICE_LANE_DAEMON_RX_PRODUCER),
               welcome.rx_entries};
    lane.back = {lane.back_word, lane.back_entries,
                 reinterpret_cast<const sluice_ring_consumer*>(daemon + SLUICE_LANE_DAEMON_BACK_CONSUMER),
                 welcome.back_entries};
    lane.tx = {lane.tx_word, lane.tx_entries,
               reinterpret_cast<const sluice_ring_consumer*>(daemon + SLUICE_LANE_DAEMON_TX_CONSUMER),
               welcome.tx_entries};
    lane.wake_app = fds_[4 + 2 * i].get();
    lane.wake_daemon = fds_[5 + 2 * i].get();
    lane.first_slot = i * welcome.tx_entries * welcome.tx_slot_bytes;
    return lane;
  }

  UniqueFd socket_;
  std::vector<UniqueFd> fds_;
  Mapping rx_arena_, daemon_, app_, tx_arena_;
};

}  // namespace sluice::test
