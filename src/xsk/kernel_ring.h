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

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "xsk/queue_kernel.h"

namespace sluice {

// The memory of one ring. It keeps the socket's file open.
class RingMapping {
 public:
  RingMapping() = default;
  RingMapping(RingMapping&& other) noexcept { swap(other); }
  RingMapping& operator=(RingMapping&& other) noexcept {
    swap(other);
    return *this;
  }
  ~RingMapping() { reset(); }

  // 0, or the errno.
  int map(QueueKernel& kernel, int socket, std::uint64_t page_offset, std::size_t bytes) {
    reset();
    void* data = kernel.map(socket, page_offset, bytes);
    if (data == nullptr) {
      return errno;
    }
    kernel_ = &kernel;
    data_ = data;
    bytes_ = bytes;
    return 0;
  }
  void reset() {
    if (data_ != nullptr) {
      kernel_->unmap(std::exchange(data_, nullptr), bytes_);
    }
  }
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void swap(RingMapping& other) {
    std::swap(kernel_, other.kernel_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  QueueKernel* kernel_ = nullptr;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

template <typename Entry>
class KernelRing {
 public:
  // `page_offset`: the place of this ring in the socket's file (XDP_PGOFF_*). 0, or the errno.
  int map(QueueKernel& kernel, int socket, std::uint64_t page_offset, const xdp_ring_offset& at,
          std::uint32_t entries) {
    if (const int error = mapping_.map(kernel, socket, page_offset, at.desc + entries * sizeof(Entry))) {
      return error;
    }
    std::byte* base = mapping_.data();
    producer_ = reinterpret_cast<std::uint32_t*>(base + at.producer);
    consumer_ = reinterpret_cast<std::uint32_t*>(base + at.consumer);
    flags_ = reinterpret_cast<std::uint32_t*>(base + at.flags);
    entries_ = reinterpret_cast<Entry*>(base + at.desc);
    size_ = entries;
    own_ = peer_ = 0;
    return 0;
  }
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

  // The ring from where we are, for one burst: in registers, where the compiler could not keep the ring itself.
  class Window {
   public:
    Entry& operator[](std::uint32_t i) const { return entries_[(own_ + i) & mask_]; }

   private:
    friend class KernelRing;
    Window(Entry* entries, std::uint32_t own, std::uint32_t mask)
        : entries_(entries), own_(own), mask_(mask) {}
    Entry* entries_;
    std::uint32_t own_, mask_;
  };
  Window window() const { return Window(entries_, own_, size_ - 1); }

 private:
  RingMapping mapping_;
  std::uint32_t* producer_ = nullptr;
  std::uint32_t* consumer_ = nullptr;
  std::uint32_t* flags_ = nullptr;
  Entry* entries_ = nullptr;
  std::uint32_t size_ = 0;
  std::uint32_t own_ = 0;   // our index: what we publish, never read back
  std::uint32_t peer_ = 0;  // the kernel's, as last seen
};

}  // namespace sluice
