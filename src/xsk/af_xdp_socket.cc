#include "xsk/af_xdp_socket.h"

#include <array>
#include <cerrno>

namespace sluice {

namespace {

// Copy mode sends at most this many frames per system call (net/xdp/xsk.c, TX_BATCH_SIZE).
constexpr std::uint32_t kFramesPerKick = 32;

std::unexpected<XskFault> fault(XskFault::Step step, int os_errno, int ring = 0, std::uint32_t entries = 0) {
  return std::unexpected(XskFault{step, os_errno, ring, entries});
}

// EAGAIN: more to send, or the socket's send buffer is full. EBUSY, ENOBUFS: the device's queue is full.
bool passes(int error) {
  return error == 0 || error == EAGAIN || error == EBUSY || error == ENOBUFS;
}

}  // namespace

std::expected<AfXdpSocket, XskFault> AfXdpSocket::create(QueueKernel& kernel) {
  const int fd = kernel.open();
  if (fd < 0) {
    return fault(XskFault::Step::kSocket, -fd);
  }
  AfXdpSocket socket;
  socket.kernel_ = &kernel;
  socket.fd_ = fd;
  return socket;
}

AfXdpSocket& AfXdpSocket::operator=(AfXdpSocket&& other) noexcept {
  if (this != &other) {
    close();
    rx = std::move(other.rx);
    tx = std::move(other.tx);
    fill = std::move(other.fill);
    completion = std::move(other.completion);
    kernel_ = other.kernel_;
    fd_ = std::exchange(other.fd_, -1);
    zero_copy_ = other.zero_copy_;
  }
  return *this;
}

std::expected<void, XskFault> AfXdpSocket::register_memory(const xdp_umem_reg& memory) {
  if (const int error = kernel_->set(fd_, XDP_UMEM_REG, &memory, sizeof(memory))) {
    return fault(XskFault::Step::kRegister, error);
  }
  return {};
}

std::expected<void, XskFault> AfXdpSocket::make_rings(const XskRings& wanted) {
  struct Ring {
    int option;
    std::uint32_t entries;
  };
  const std::array<Ring, 4> rings{{{XDP_UMEM_FILL_RING, wanted.fill},
                                   {XDP_UMEM_COMPLETION_RING, wanted.completion},
                                   {XDP_RX_RING, wanted.rx},
                                   {XDP_TX_RING, wanted.tx}}};
  for (const Ring& ring : rings) {
    if (ring.entries == 0) {
      continue;
    }
    if (const int error = kernel_->set(fd_, ring.option, &ring.entries, sizeof(ring.entries))) {
      return fault(XskFault::Step::kRing, error, ring.option, ring.entries);
    }
  }
  return map_rings(wanted);
}

std::expected<void, XskFault> AfXdpSocket::map_rings(const XskRings& made) {
  xdp_mmap_offsets at{};
  std::uint32_t bytes = sizeof(at);
  if (const int error = kernel_->get(fd_, XDP_MMAP_OFFSETS, &at, bytes); error != 0 || bytes != sizeof(at)) {
    return fault(XskFault::Step::kOffsets, error != 0 ? error : EINVAL);
  }
  auto map = [&](auto& ring, int option, std::uint64_t place, const xdp_ring_offset& offsets,
                 std::uint32_t entries) -> std::expected<void, XskFault> {
    const int error = entries == 0 ? 0 : ring.map(*kernel_, fd_, place, offsets, entries);
    if (error != 0) {
      return fault(XskFault::Step::kMap, error, option, entries);
    }
    return {};
  };
  auto mapped = map(fill, XDP_UMEM_FILL_RING, XDP_UMEM_PGOFF_FILL_RING, at.fr, made.fill);
  if (mapped) {
    mapped =
        map(completion, XDP_UMEM_COMPLETION_RING, XDP_UMEM_PGOFF_COMPLETION_RING, at.cr, made.completion);
  }
  if (mapped) {
    mapped = map(rx, XDP_RX_RING, XDP_PGOFF_RX_RING, at.rx, made.rx);
  }
  if (mapped) {
    mapped = map(tx, XDP_TX_RING, XDP_PGOFF_TX_RING, at.tx, made.tx);
  }
  return mapped;
}

void AfXdpSocket::note_bound() {
  xdp_options options{};
  std::uint32_t bytes = sizeof(options);
  if (kernel_->get(fd_, XDP_OPTIONS, &options, bytes) == 0) {
    zero_copy_ = (options.flags & XDP_OPTIONS_ZEROCOPY) != 0;
  }
}

void AfXdpSocket::unmap_rings() {
  fill.unmap();
  completion.unmap();
  rx.unmap();
  tx.unmap();
}

void AfXdpSocket::close() {
  unmap_rings();
  if (fd_ >= 0) {
    kernel_->discard(std::exchange(fd_, -1));
  }
}

int AfXdpSocket::release() {
  unmap_rings();
  return std::exchange(fd_, -1);
}

AfXdpSocket::Kick AfXdpSocket::kick_tx() {
  Kick kick{.untaken = tx.untaken()};
  // In copy mode the kernel always asks; in zero-copy mode only when the driver has gone to sleep.
  std::uint32_t rounds = zero_copy_ ? 1 : kick.untaken / kFramesPerKick + 1;
  while (kick.untaken != 0 && rounds-- != 0 && tx.needs_wakeup()) {
    ++kick.calls;
    kick.refused = !passes(kernel_->send(fd_));
    const std::uint32_t before = std::exchange(kick.untaken, tx.untaken());
    if (kick.refused || kick.untaken == before) {
      break;
    }
  }
  return kick;
}

std::optional<xdp_statistics> AfXdpSocket::statistics() const {
  xdp_statistics counts{};
  std::uint32_t bytes = sizeof(counts);
  if (fd_ < 0 || kernel_->get(fd_, XDP_STATISTICS, &counts, bytes) != 0) {
    return std::nullopt;
  }
  return counts;
}

}  // namespace sluice
