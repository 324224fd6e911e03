#include "port/nic/broadcast_queue.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/untrusted.h"
#include "port/vlan.h"

namespace sluice {

namespace {

constexpr std::uint32_t kBlockBytes =
    4096;  // a multiple of the page and of the slot: slots stand side by side

// The group bit of the destination (IEEE 802): accept, else nothing. In the kernel, before a slot is spent.
constexpr std::array<sock_filter, 4> kGroupsOnly{{
    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 1, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
    BPF_STMT(BPF_RET | BPF_K, 0),
}};

template <typename T>
bool set(int socket, int level, int option, const T& value) {
  return ::setsockopt(socket, level, option, &value, sizeof value) == 0;
}

tpacket2_hdr& header_of(std::byte* slot) {
  return *reinterpret_cast<tpacket2_hdr*>(slot);
}

}  // namespace

Result<std::unique_ptr<BroadcastQueue>> BroadcastQueue::open(const BroadcastQueueOptions& options) {
  std::unique_ptr<BroadcastQueue> queue(new BroadcastQueue(options));
  if (auto made = queue->make_socket(); !made) {
    return with_context(fmt::format("{}: broadcasts from the wire", options.netdev), made.error());
  }
  return queue;
}

BroadcastQueue::~BroadcastQueue() = default;  // the kernel ends the memberships with the socket

Result<void> BroadcastQueue::make_socket() {
  // Protocol 0: nothing comes before bind().
  socket_.reset(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket_) {
    return fail_errno(errno, "cannot open a packet socket (it needs CAP_NET_RAW)");
  }
  // The kernel copies the program, and does not write to it.
  const sock_fprog program{kGroupsOnly.size(), const_cast<sock_filter*>(kGroupsOnly.data())};
  if (!set(socket_.get(), SOL_SOCKET, SO_ATTACH_FILTER, program)) {
    return fail_errno(errno, "cannot filter a packet socket");
  }
  if (!set(socket_.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, int{1})) {
    return fail_errno(errno, "this kernel is too old: PACKET_IGNORE_OUTGOING is refused");
  }
  SLUICE_TRY(make_ring());
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = options_.ifindex;
  if (::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail_errno(errno, "cannot bind a packet socket");
  }
  return join(PACKET_ADD_MEMBERSHIP, PACKET_MR_ALLMULTI, {});
}

Result<void> BroadcastQueue::make_ring() {
  tpacket_req request{};
  request.tp_block_size = kBlockBytes;
  request.tp_frame_size = kSlotBytes;
  request.tp_frame_nr = kFrames;
  request.tp_block_nr = kFrames * kSlotBytes / kBlockBytes;
  // The reserve is room in front of the frame, for a tag that the kernel took out.
  if (!set(socket_.get(), SOL_PACKET, PACKET_VERSION, int{TPACKET_V2}) ||
      !set(socket_.get(), SOL_PACKET, PACKET_RESERVE, unsigned{kVlanTagBytes}) ||
      !set(socket_.get(), SOL_PACKET, PACKET_RX_RING, request)) {
    return fail_errno(errno, "cannot make a packet ring of {} frames", kFrames);
  }
  auto ring = Mapping::map(socket_.get(), std::size_t{kFrames} * kSlotBytes, PROT_READ | PROT_WRITE);
  if (!ring) {
    return std::unexpected(ring.error());
  }
  ring_ = std::move(*ring);
  return {};
}

Result<void> BroadcastQueue::join(int action, std::uint16_t type, const MacAddress& mac) {
  packet_mreq request{};
  request.mr_ifindex = options_.ifindex;
  request.mr_type = type;
  if (type == PACKET_MR_UNICAST) {
    request.mr_alen = static_cast<unsigned short>(mac.size());
    std::copy(mac.begin(), mac.end(), request.mr_address);
  }
  if (!set(socket_.get(), SOL_PACKET, action, request)) {
    return type == PACKET_MR_UNICAST
               ? fail_errno(errno, "{}: cannot take in address {:02x}", options_.netdev, fmt::join(mac, ":"))
               : fail_errno(errno, "cannot take in all multicast");
  }
  return {};
}

Result<void> BroadcastQueue::accept(std::span<const MacAddress> macs) {
  for (const MacAddress& mac : macs) {
    if (std::ranges::find(macs_, mac) == macs_.end()) {
      SLUICE_TRY(join(PACKET_ADD_MEMBERSHIP, PACKET_MR_UNICAST, mac));
      macs_.push_back(mac);
    }
  }
  const auto is_gone = [&](const MacAddress& mac) { return std::ranges::find(macs, mac) == macs.end(); };
  Result<void> outcome;
  for (const MacAddress& mac : macs_) {
    if (is_gone(mac) && outcome) {
      outcome = join(PACKET_DROP_MEMBERSHIP, PACKET_MR_UNICAST, mac);
    }
  }
  std::erase_if(macs_, is_gone);
  return outcome;
}

std::uint32_t BroadcastQueue::burst(std::span<Packet> packets, BurstInfo& info) {
  SLUICE_CHECK(out_ == 0, "{} frames of the last burst are not done", out_);
  const std::uint32_t most = std::min(static_cast<std::uint32_t>(packets.size()), kBurst);
  std::uint32_t taken = 0;
  std::uint64_t bytes = 0;
  for (; out_ < most; ++out_) {
    std::byte* at = slot(next_ + out_);
    const tpacket2_hdr& header = header_of(at);
    const std::uint32_t status = read_once(header.tp_status, std::memory_order_acquire);
    if ((status & TP_STATUS_USER) == 0) {
      break;
    }
    if (header.tp_snaplen < header.tp_len) {
      drop_too_long_.add(1);
      continue;
    }
    std::byte* frame = at + header.tp_mac;
    std::uint32_t frame_bytes = header.tp_snaplen;
    if ((status & TP_STATUS_VLAN_VALID) != 0) {
      const std::uint16_t tpid = (status & TP_STATUS_VLAN_TPID_VALID) != 0 ? header.tp_vlan_tpid : kVlanTpid;
      frame = insert_tag(frame, tpid, header.tp_vlan_tci);
      frame_bytes += kVlanTagBytes;
    }
    bytes += frame_bytes;
    packets[taken++] = Packet{.body = frame, .body_bytes = frame_bytes, .port = PortId::kFlood};
  }
  if (taken == 0) {
    done({});
    return 0;
  }
  rx_packets_.add(taken);
  rx_bytes_.add(bytes);
  info.uplink = options_.port;
  info.nic = options_.nic;
  return taken;
}

void BroadcastQueue::done(std::span<const Packet>) {
  for (; out_ != 0; --out_) {
    write_once(header_of(slot(next_++)).tp_status, __u32{TP_STATUS_KERNEL}, std::memory_order_release);
  }
}

bool BroadcastQueue::prepare_sleep() {
  // The socket is readable as long as a frame is in the ring, and the worker's wait is level-triggered.
  return (read_once(header_of(slot(next_)).tp_status, std::memory_order_acquire) & TP_STATUS_USER) != 0;
}

void BroadcastQueue::woken() {
  // A NIC that goes down leaves an error on the socket, which would wake for ever.
  int error = 0;
  socklen_t bytes = sizeof error;
  ::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &bytes);
}

void BroadcastQueue::visit(CounterVisitor& visitor) const {
  tpacket_stats fresh{};
  socklen_t bytes = sizeof fresh;
  if (::getsockopt(socket_.get(), SOL_PACKET, PACKET_STATISTICS, &fresh, &bytes) == 0) {
    ring_full_.fetch_add(fresh.tp_drops, std::memory_order_relaxed);
  }
  visitor.counter("rx_packets", rx_packets_.value());
  visitor.counter("rx_bytes", rx_bytes_.value());
  visitor.counter("drop_too_long", drop_too_long_.value());
  visitor.counter("drop_broadcast_ring_full", ring_full_.load(std::memory_order_relaxed));
}

}  // namespace sluice
