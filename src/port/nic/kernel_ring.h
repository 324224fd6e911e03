// Our side of the four rings of an AF_XDP socket (Documentation/networking/af_xdp.rst; the layout is told by
// XDP_MMAP_OFFSETS). The other side is the kernel: it is trusted, and only publishes indices.
//
//   ring         who produces   entries         made by
//   RX           kernel         xdp_desc        XDP_RX_RING
//   TX           we             xdp_desc        XDP_TX_RING
//   fill         we             page address    XDP_UMEM_FILL_RING
//   completion   kernel         page address    XDP_UMEM_COMPLETION_RING
//
// Indices run freely and wrap at 2^32. Producer: entries, then index, store-release; consumer: index,
// load-acquire, then entries. One thread.
#pragma once

#include <linux/if_xdp.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdint>

#include "base/fd.h"
#include "base/result.h"

namespace sluice {

template <typename Entry>
class KernelRing {
 public:
  // `option` as above, `page_offset` the place of this ring in the socket's file (XDP_PGOFF_*).
  Result<void> map(int fd, int option, std::uint64_t page_offset, const xdp_ring_offset& at,
                   std::uint32_t entries) {
    auto mapping = Mapping::map(fd, at.desc + entries * sizeof(Entry), PROT_READ | PROT_WRITE, page_offset);
    if (!mapping) {
      return with_context(fmt::format("AF_XDP ring {}", option), mapping.error());
    }
    mapping_ = std::move(*mapping);
    std::byte* base = mapping_.data();
    producer_ = reinterpret_cast<std::uint32_t*>(base + at.producer);
    consumer_ = reinterpret_cast<std::uint32_t*>(base + at.consumer);
    flags_ = reinterpret_cast<std::uint32_t*>(base + at.flags);
    entries_ = reinterpret_cast<Entry*>(base + at.desc);
    size_ = entries;
    return {};
  }
  // The mapping keeps the socket open: unmap before closing.
  void unmap() { mapping_.reset(); }

  std::uint32_t size() const { return size_; }
  bool needs_wakeup() const {
    return (std::atomic_ref(*flags_).load(std::memory_order_relaxed) & XDP_RING_NEED_WAKEUP) != 0;
  }

  // --- producer ---
  // How many entries may be written now, at most `wanted`; looks at the kernel's index only when its last
  // value does not do.
  std::uint32_t reserve(std::uint32_t wanted) {
    std::uint32_t free = size_ - (own_ - peer_);
    if (free < wanted) {
      peer_ = std::atomic_ref(*consumer_).load(std::memory_order_acquire);
      free = size_ - (own_ - peer_);
    }
    return free < wanted ? free : wanted;
  }
  Entry& slot(std::uint32_t i) { return entries_[(own_ + i) & (size_ - 1)]; }
  void submit(std::uint32_t count) {
    own_ += count;
    std::atomic_ref(*producer_).store(own_, std::memory_order_release);
  }
  // Produced and not yet taken by the kernel.
  std::uint32_t untaken() {
    peer_ = std::atomic_ref(*consumer_).load(std::memory_order_acquire);
    return own_ - peer_;
  }

  // --- consumer ---
  std::uint32_t peek(std::uint32_t wanted) {
    std::uint32_t filled = peer_ - own_;
    if (filled == 0) {
      peer_ = std::atomic_ref(*producer_).load(std::memory_order_acquire);
      filled = peer_ - own_;
    }
    return filled < wanted ? filled : wanted;
  }
  const Entry& entry(std::uint32_t i) const { return entries_[(own_ + i) & (size_ - 1)]; }
  void release(std::uint32_t count) {
    own_ += count;
    std::atomic_ref(*consumer_).store(own_, std::memory_order_release);
  }

 private:
  Mapping mapping_;
  std::uint32_t* producer_ = nullptr;
  std::uint32_t* consumer_ = nullptr;
  std::uint32_t* flags_ = nullptr;
  Entry* entries_ = nullptr;
  std::uint32_t size_ = 0;
  std::uint32_t own_ = 0;   // our index: what we publish, never read back
  std::uint32_t peer_ = 0;  // the kernel's, as last seen
};

}  // namespace sluice
