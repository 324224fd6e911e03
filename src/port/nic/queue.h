// NicQueue: one AF_XDP socket on one RX queue of a NIC. Receives, and transmits for its worker.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "memory/pool.h"
#include "port/nic/umem.h"
#include "port/port.h"

namespace sluice {

enum class BindMode : std::uint8_t { kAuto, kZeroCopy, kCopy };

struct NicQueueOptions {
  std::string netdev;  // "eth1", in this process's network namespace
  int ifindex = 0;
  NicId nic{0};
  QueueId queue{0};
  BindMode mode = BindMode::kAuto;
  std::uint32_t ring_entries = 4096;  // of RX and fill ring; power of two, 64 .. 32768
  std::uint32_t tx_entries = 2048;    // of TX and completion ring; power of two
};

// How many pages a queue's pool must have so that the NIC never starves while `lent` pages are with readers.
constexpr std::uint32_t pages_for_queue(const NicQueueOptions& options, std::uint32_t lent) {
  return 2 * options.ring_entries  // fill ring and RX ring, both full
         + options.tx_entries      // on their way out
         + 2 * kBurst              // in the worker's hand, and being posted
         + lent;
}

class NicQueue final : public Queue {
 public:
  // Control thread. Binds (waiting for a previous socket's pool to be torn down, at most 2 s), fills the fill ring.
  // Does not touch the XDP program: the caller puts socket_fd() into the demux program's XSKMAP.
  static Result<std::unique_ptr<NicQueue>> open(const NicQueueOptions& options, Umem& umem, PagePool& pool);
  // Control thread, after the worker has let go of it. Closes the socket first, then all pages that the kernel held go
  // home to the pool (D7). The pool must be quiet: its owner thread no longer uses it.
  ~NicQueue() override;

  int socket_fd() const;
  bool zero_copy() const;  // what XDP_OPTIONS says it became
  // rx_packets rx_bytes tx_packets tx_bytes drop_tx_ring_full ... and the kernel's XDP_STATISTICS by their names
  void visit(CounterVisitor& visitor) const;

  // Queue and Lane: see port.h.
  DomainId domain() const override;
  void hand_over(const Source& source, std::span<Packet> packets) override;
  void copy_in(const Source& source, std::span<Packet> packets) override;
  std::uint32_t tx_burst(std::span<Packet> packets) override;
  void tx_done(std::uint32_t count) override;
  std::uint32_t poll() override;
  int wake_fd() const override;
  bool prepare_sleep() override;
  void woken() override;
  std::uint32_t receive(std::span<Packet> packets, Source& source) override;
  void recycle(std::span<const Packet> packets) override;
};

}  // namespace sluice
