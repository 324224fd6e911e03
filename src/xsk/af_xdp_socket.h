// AfXdpSocket: one AF_XDP socket: its descriptor, its four rings, its kicks (af_xdp.rst of the kernel).
//
//   create() -> register_memory() -> make_rings() -> bind -> note_bound() -> rings and kicks
//               or share another socket's (XDP_SHARED_UMEM)                     -> release()
//
// It knows addresses in a UMEM, and nothing of pages, pools or packets: a BufferSource says what lies where
// (port/nic/buffer_source.h). It links into libsluice too, so it needs no library but libstdc++.
#pragma once

#include <linux/if_xdp.h>

#include <cstdint>
#include <expected>
#include <optional>
#include <utility>

#include "xsk/kernel_ring.h"
#include "xsk/queue_kernel.h"

namespace sluice {

// Entries of each ring, powers of two; 0: the socket has no such ring.
struct XskRings {
  std::uint32_t rx = 0;
  std::uint32_t tx = 0;
  std::uint32_t fill = 0;
  std::uint32_t completion = 0;
};

// What could not be done. Callers make a sentence of it.
struct XskFault {
  enum class Step : std::uint8_t {
    kSocket,    // socket(2)
    kRegister,  // XDP_UMEM_REG
    kRing,      // XDP_RX_RING, XDP_TX_RING, ...: `ring` is the option
    kOffsets,   // XDP_MMAP_OFFSETS: the kernel is older than 5.4
    kMap,       // mmap(2) of `ring`
  } step;
  int os_errno = 0;
  int ring = 0;
  std::uint32_t entries = 0;
};

// Control thread until it is bound, then its worker's thread; bind(2) and close(2) on any.
class AfXdpSocket {
 public:
  AfXdpSocket() = default;  // none
  static std::expected<AfXdpSocket, XskFault> create(QueueKernel& kernel = QueueKernel::real());
  AfXdpSocket(AfXdpSocket&& other) noexcept { *this = std::move(other); }
  AfXdpSocket& operator=(AfXdpSocket&& other) noexcept;
  ~AfXdpSocket() { close(); }

  std::expected<void, XskFault> register_memory(const xdp_umem_reg& memory);
  std::expected<void, XskFault> make_rings(const XskRings& wanted);
  // May take the kernel long (QueueKernel). 0, or the errno.
  int bind(const sockaddr_xdp& address) const { return kernel_->bind(fd_, address); }
  // It is bound: asks the kernel what has come of it.
  void note_bound();
  bool zero_copy() const { return zero_copy_; }

  int fd() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  // Each mapping holds the socket's file open: without this a close(2) closes nothing.
  void unmap_rings();
  // Of one that was never bound. One that was: release(), then QueueKernel::close(), which may take long.
  void close();
  int release();

  // --- one thread ---
  KernelRing<xdp_desc> rx, tx;
  KernelRing<std::uint64_t> fill, completion;

  // Has the kernel look at the TX ring, while it asks for that.
  struct Kick {
    std::uint32_t calls = 0;
    std::uint32_t untaken = 0;  // descriptors that the kernel has not taken yet
    bool refused = false;       // the NIC is down or gone (ENETDOWN, ENXIO): kicking again changes nothing
  };
  Kick kick_tx();
  // Has the driver look at the fill ring.
  void kick_rx() { kernel_->receive(fd_); }

  // The kernel's counters; none: the socket is closed.
  std::optional<xdp_statistics> statistics() const;

 private:
  std::expected<void, XskFault> map_rings(const XskRings& made);

  QueueKernel* kernel_ = nullptr;
  int fd_ = -1;
  bool zero_copy_ = false;
};

}  // namespace sluice
