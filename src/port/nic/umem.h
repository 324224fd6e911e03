// Umem: memory registered with the kernel (XDP_UMEM_REG), for all queues of its domain: an arena, or regions
// that lie side by side. Addresses count from the beginning of the first.
//
// The queues of one NIC share one registration (XDP_SHARED_UMEM): its pages are pinned and mapped for DMA
// once. Each further NIC gets a registration of its own over the same memory, because the kernel makes a
// registration either zero copy or copy as a whole (net/xdp/xsk_buff_pool.c, xp_assign_dev_shared), which
// would tie a fast NIC to a slow one. Addresses are the same in all of them, so a page received on one NIC is
// sent on another as it is.
//
// The system calls are made by AfXdpSocket and not by libxdp, which keeps the first socket of a UMEM open
// until the UMEM goes: that queue could neither be closed nor opened again while another one is in use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "abi/packet_meta.h"
#include "base/choices.h"
#include "base/result.h"
#include "memory/arena.h"
#include "xsk/af_xdp_socket.h"

namespace sluice {

// Where a frame begins in its page: behind what the kernel keeps free (XDP_PACKET_HEADROOM, 256 bytes) and
// the metadata. So the metadata and the frame's headers stand in one cache line, which is all that a worker
// and most apps read of a page, and all that there is of a short frame: the kernel's next write to the page,
// on another CPU, has one line to fetch back and not two.
inline constexpr std::uint32_t kFrameOffset = 256 + sizeof(sluice_packet_meta);

struct UmemRegion {
  std::byte* data = nullptr;
  std::size_t bytes = 0;
};

struct UmemLayout {
  std::uint32_t chunk_bytes = 2048;                     // what the kernel takes as one buffer; 2048 or 4096
  std::uint32_t headroom = sizeof(sluice_packet_meta);  // see kFrameOffset
  enum class Chunks : std::uint8_t {
    kAligned,    // an address is that of its chunk's beginning
    kUnaligned,  // a buffer may begin anywhere (XDP_UMEM_UNALIGNED_CHUNK_FLAG)
  } chunks = Chunks::kAligned;
};

// Control thread.
class Umem {
 public:
  // The memory must outlive it. Errors say what to do: regions with a gap, too little locked memory, no
  // AF_XDP in this kernel, no privilege. Sockets belong to the network namespace of the calling thread.
  static Result<std::unique_ptr<Umem>> create(std::span<const UmemRegion> regions, const UmemLayout& layout,
                                              QueueKernel& kernel = QueueKernel::real());
  static Result<std::unique_ptr<Umem>> create(Arena& arena, QueueKernel& kernel = QueueKernel::real());
  ~Umem();

  const std::byte* data() const { return whole_.data; }
  std::size_t bytes() const { return whole_.bytes; }

  // --- for NicQueue ---
  // A socket that has the memory registered and is not bound.
  Result<AfXdpSocket> registered_socket();
  // A socket without; its registration will be another one's.
  Result<AfXdpSocket> bare_socket();
  // A bound socket whose registration a new queue of this NIC may share; -1: none.
  int sibling(int ifindex, BindMode mode) const;
  void joined(int fd, int ifindex, bool zero_copy);
  void left(int fd);

 private:
  Umem(UmemRegion whole, const UmemLayout& layout, QueueKernel& kernel)
      : whole_(whole), layout_(layout), kernel_(kernel) {}
  struct Bound {
    int fd;
    int ifindex;
    bool zero_copy;
  };

  const UmemRegion whole_;
  const UmemLayout layout_;
  QueueKernel& kernel_;
  AfXdpSocket spare_;  // registered by create(), for the first queue
  std::vector<Bound> bound_;
};

}  // namespace sluice
