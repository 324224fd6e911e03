#include "bench/receivers.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "bench/bare_af_xdp.h"

namespace sluice::bench {

namespace {

constexpr unsigned kMessages = 64;
constexpr int kSocketBytes = 64 << 20;  // so that a peer's loss is of its speed, not of a small default

class BareReceiver final : public Receiver {
 public:
  explicit BareReceiver(std::unique_ptr<BareAfXdp> peer) : peer_(std::move(peer)) {}
  std::uint64_t turn() override { return peer_->turn(); }

 private:
  std::unique_ptr<BareAfXdp> peer_;
};

class UdpReceiver final : public Receiver {
 public:
  explicit UdpReceiver(UniqueFd socket) : socket_(std::move(socket)) {
    for (unsigned i = 0; i < kMessages; ++i) {
      places_[i] = {buffers_[i].data(), buffers_[i].size()};
      messages_[i] = {};
      messages_[i].msg_hdr.msg_iov = &places_[i];
      messages_[i].msg_hdr.msg_iovlen = 1;
    }
  }
  std::uint64_t turn() override {
    timespec wait{0, 50'000'000};
    int count = ::recvmmsg(socket_.get(), messages_.data(), kMessages, MSG_WAITFORONE, &wait);
    return count < 0 ? 0 : static_cast<std::uint64_t>(count);
  }

 private:
  UniqueFd socket_;
  std::array<std::array<std::byte, 2048>, kMessages> buffers_;
  std::array<iovec, kMessages> places_;
  std::array<mmsghdr, kMessages> messages_;
};

class TpacketReceiver final : public Receiver {
 public:
  static constexpr unsigned kBlockBytes = 1 << 20, kBlocks = 64;
  TpacketReceiver(UniqueFd socket, Mapping ring) : socket_(std::move(socket)), ring_(std::move(ring)) {}
  std::uint64_t turn() override {
    auto* block = reinterpret_cast<tpacket_block_desc*>(ring_.data() + std::size_t{next_} * kBlockBytes);
    std::atomic_ref<__u32> status(block->hdr.bh1.block_status);
    if ((status.load(std::memory_order_acquire) & TP_STATUS_USER) == 0) {
      pollfd wait{socket_.get(), POLLIN, 0};
      ::poll(&wait, 1, 50);
      return 0;
    }
    std::uint64_t count = block->hdr.bh1.num_pkts;
    const auto* packet = reinterpret_cast<const std::byte*>(block) + block->hdr.bh1.offset_to_first_pkt;
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto* header = reinterpret_cast<const tpacket3_hdr*>(packet);
      touched_ = touched_ + std::to_integer<std::uint64_t>(packet[header->tp_mac]);
      packet += header->tp_next_offset;
    }
    status.store(TP_STATUS_KERNEL, std::memory_order_release);
    next_ = (next_ + 1) % kBlocks;
    return count;
  }

 private:
  UniqueFd socket_;
  Mapping ring_;
  unsigned next_ = 0;
  volatile std::uint64_t touched_ = 0;
};

}  // namespace

Result<std::unique_ptr<Receiver>> open_bare_af_xdp(const std::string& netdev, const BareOptions& options) {
  // The kernel tears the last user's socket down behind its back: EBUSY for some milliseconds.
  auto peer = BareAfXdp::open(netdev, options);
  for (int tries = 0; !peer && peer.error().os_errno == EBUSY && tries < 100; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    peer = BareAfXdp::open(netdev, options);
  }
  if (!peer) {
    return std::unexpected(peer.error());
  }
  return std::make_unique<BareReceiver>(std::move(*peer));
}

Result<std::unique_ptr<Receiver>> open_udp() {
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(kUdpPort);
  int bytes = kSocketBytes;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
  timeval timeout{0, 50'000};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  if (!socket || ::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) < 0) {
    return fail_errno(errno, "UDP socket on port {}", kUdpPort);
  }
  return std::make_unique<UdpReceiver>(std::move(socket));
}

Result<std::unique_ptr<Receiver>> open_tpacket(const std::string& netdev) {
  UniqueFd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_IP)));
  int version = TPACKET_V3;
  tpacket_req3 request{};
  request.tp_block_size = TpacketReceiver::kBlockBytes;
  request.tp_block_nr = TpacketReceiver::kBlocks;
  request.tp_frame_size = 2048;
  request.tp_frame_nr = request.tp_block_size / request.tp_frame_size * request.tp_block_nr;
  request.tp_retire_blk_tov = 10;
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_IP);
  address.sll_ifindex = static_cast<int>(::if_nametoindex(netdev.c_str()));
  if (!socket || ::setsockopt(socket.get(), SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) < 0 ||
      ::setsockopt(socket.get(), SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)) < 0 ||
      ::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) < 0) {
    return fail_errno(errno, "packet socket on {}", netdev);
  }
  auto ring = Mapping::map(socket.get(), std::size_t{request.tp_block_size} * request.tp_block_nr,
                           PROT_READ | PROT_WRITE);
  if (!ring) {
    return std::unexpected(ring.error());
  }
  return std::make_unique<TpacketReceiver>(std::move(socket), std::move(*ring));
}

}  // namespace sluice::bench
