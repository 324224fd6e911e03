// A kernel without a NIC, for tests: sockets are numbers, rings are ordinary memory, and the test plays the
// other side of each ring. Needs no privilege.
#pragma once

#include <linux/if_xdp.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "xsk/queue_kernel.h"

namespace sluice::test {

class FakeKernel final : public QueueKernel {
 public:
  int open() override { return open_error != 0 ? -open_error : ++last_socket_; }
  int bind(int, const sockaddr_xdp& address) override {
    bound = address;
    return bind_error;
  }
  void close(int) override { ++closed; }
  void discard(int) override { ++discarded; }
  int set(int, int option, const void* value, std::uint32_t bytes) override {
    if (option == failing_option) {
      return EINVAL;
    }
    if (option == XDP_UMEM_REG) {
      std::memcpy(&registered, value, bytes);
    } else {
      std::memcpy(&entries[option], value, sizeof(std::uint32_t));
    }
    return 0;
  }
  int get(int, int option, void* value, std::uint32_t& bytes) override {
    if (option == XDP_MMAP_OFFSETS) {
      xdp_mmap_offsets at{};
      at.rx = at.tx = at.fr = at.cr = {.producer = 0, .consumer = 64, .desc = 192, .flags = 128};
      std::memcpy(value, &at, sizeof(at));
    } else if (option == XDP_OPTIONS) {
      xdp_options options{.flags = zero_copy ? std::uint32_t{XDP_OPTIONS_ZEROCOPY} : 0};
      std::memcpy(value, &options, sizeof(options));
    } else {
      std::memset(value, 0, bytes);
      static_cast<xdp_statistics*>(value)->rx_ring_full = 7;
    }
    return 0;
  }
  void* map(int, std::uint64_t page_offset, std::size_t bytes) override {
    if (page_offset == failing_map) {
      errno = ENOMEM;
      return nullptr;
    }
    auto& memory = maps_[page_offset];
    memory.assign((bytes + 7) / 8, 0);
    ++mapped;
    return memory.data();
  }
  void unmap(void*, std::size_t) override { --mapped; }
  int send(int) override {
    ++sends;
    if (send_error == 0) {
      take_sent(most_per_send);
    }
    return send_error;
  }
  int receive(int) override {
    ++receives;
    return 0;
  }

  // --- the kernel's side of the rings ---
  // How much room the kernel finds in a ring that it produces: it never writes over what was not taken.
  std::uint32_t room(std::uint64_t page_offset, int option) {
    Side ring = side(page_offset);
    return entries[option] - (*ring.producer - *ring.consumer);
  }
  std::uint32_t rx_room() { return room(XDP_PGOFF_RX_RING, XDP_RX_RING); }
  std::uint32_t completion_room() { return room(XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_COMPLETION_RING); }
  // Takes the oldest buffer of the fill ring; false: it is empty.
  bool take_filled(std::uint64_t& address) {
    Side ring = side(XDP_UMEM_PGOFF_FILL_RING);
    if (*ring.consumer == *ring.producer) {
      return false;
    }
    address = ring.at<std::uint64_t>(*ring.consumer, entries[XDP_UMEM_FILL_RING]);
    ++*ring.consumer;
    return true;
  }
  void give_frame(const xdp_desc& frame) {
    Side ring = side(XDP_PGOFF_RX_RING);
    ring.at<xdp_desc>(*ring.producer, entries[XDP_RX_RING]) = frame;
    ++*ring.producer;
  }
  // Takes up to `most` descriptors of the TX ring; they are in `sent`.
  void take_sent(std::uint32_t most) {
    Side ring = side(XDP_PGOFF_TX_RING);
    for (; most != 0 && *ring.consumer != *ring.producer; --most) {
      sent.push_back(ring.at<xdp_desc>(*ring.consumer, entries[XDP_TX_RING]));
      ++*ring.consumer;
    }
  }
  void complete(std::uint64_t address) {
    Side ring = side(XDP_UMEM_PGOFF_COMPLETION_RING);
    ring.at<std::uint64_t>(*ring.producer, entries[XDP_UMEM_COMPLETION_RING]) = address;
    ++*ring.producer;
  }
  void want_wakeup(std::uint64_t page_offset, bool on) {
    *side(page_offset).flags = on ? XDP_RING_NEED_WAKEUP : 0;
  }

  int open_error = 0, bind_error = 0, send_error = 0;
  int failing_option = -1;
  std::uint64_t failing_map = ~0ull;
  bool zero_copy = false;
  std::uint32_t most_per_send = 32;
  std::map<int, std::uint32_t> entries;  // of each ring, by its option
  xdp_umem_reg registered{};
  sockaddr_xdp bound{};
  std::vector<xdp_desc> sent;
  int mapped = 0, closed = 0, discarded = 0, sends = 0, receives = 0;

 private:
  struct Side {
    std::uint32_t *producer, *consumer, *flags;
    std::byte* first;
    template <typename Entry>
    Entry& at(std::uint32_t index, std::uint32_t size) {
      return reinterpret_cast<Entry*>(first)[index & (size - 1)];
    }
  };
  Side side(std::uint64_t page_offset) {
    auto* base = reinterpret_cast<std::byte*>(maps_.at(page_offset).data());
    return {reinterpret_cast<std::uint32_t*>(base), reinterpret_cast<std::uint32_t*>(base + 64),
            reinterpret_cast<std::uint32_t*>(base + 128), base + 192};
  }

  int last_socket_ = 100;
  std::map<std::uint64_t, std::vector<std::uint64_t>> maps_;
};

}  // namespace sluice::test
