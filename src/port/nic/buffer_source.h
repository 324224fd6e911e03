// BufferSource: who gives one queue the buffers that the NIC fills, and takes back what was sent.
//
// NicQueue moves bursts between the rings of its AfXdpSocket and its source. Who a buffer belongs to, what
// lies where in it, and which of them the kernel has: the source alone knows. Calls are per burst, never per
// packet.
#pragma once

#include <linux/if_xdp.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/ids.h"
#include "port/port.h"
#include "stats/counter.h"
#include "xsk/kernel_ring.h"

namespace sluice {

class BufferSource {
 public:
  virtual ~BufferSource() = default;

  virtual DomainId domain() const = 0;
  // Its addresses count from here; the UMEM of the queue begins there, too.
  virtual const std::byte* memory() const = 0;
  // The longest frame that a buffer has room for when the NIC fills it.
  virtual std::uint32_t room() const = 0;

  struct Moved {
    std::uint32_t packets = 0;
    std::uint64_t bytes = 0;
  };

  // --- the worker; at most kBurst each ---
  // Up to `wanted` buffers for the NIC to fill, as the first entries of `fill`; how many. The NIC has them from
  // now on. The caller, who has made sure of the room, submits the entries.
  virtual std::uint32_t post(KernelRing<std::uint64_t>& fill, std::uint32_t wanted) = 0;
  // The first `count` entries of `rx` are frames in them: packets for the worker, into the front of
  // `packets`. The caller releases the entries.
  virtual Moved received(const KernelRing<xdp_desc>& rx, std::uint32_t count, std::span<Packet> packets) = 0;
  // Packets of received() whose page nobody has taken (page != kNone).
  virtual void recycle(std::span<const Packet> packets) = 0;
  // Frames to be sent, as the first entries of `tx`, of which `room` are free. kByPage: a packet's own page
  // goes out where it lies in this memory, and packet.page is kNone then. kByCopy: all are copied, from as
  // many segments as they lie in. What does not go is counted by name and stays the caller's, who submits the
  // entries.
  enum class How : std::uint8_t { kByPage, kByCopy };
  virtual Moved send(KernelRing<xdp_desc>& tx, std::uint32_t room, std::span<Packet> packets, How how) = 0;
  // The first `count` entries of `completion` are out. The caller releases the entries.
  virtual void completed(const KernelRing<std::uint64_t>& completion, std::uint32_t count) = 0;
  // What completed() or reclaim() could not bring home at once; once per turn. How much went home.
  virtual std::uint32_t send_home() = 0;
  virtual bool all_home() const = 0;

  // The kernel has let go of the queue (D7): all that it had comes home. On the thread that the pool of the
  // source is used by; again until it says true.
  virtual bool reclaim() = 0;

  // The longest frame that the NIC takes; longer ones are not sent. Any thread.
  void set_longest(std::uint32_t bytes) { longest_.store(bytes, std::memory_order_relaxed); }

  struct Counters {
    Counter tx_zero_copy, tx_copied;
    Counter tx_linearised;  // of those copied: from several segments
    Counter drop_no_metadata, drop_tx_ring_full, drop_tx_no_page, drop_too_long;
    Counter fault_rx_page, fault_tx_page;  // the kernel named a page that it does not have: a driver's bug
  };
  const Counters& counters() const { return counters_; }

 protected:
  std::uint32_t longest() const { return longest_.load(std::memory_order_relaxed); }
  Counters counters_;

 private:
  std::atomic<std::uint32_t> longest_{UINT32_MAX};
};

}  // namespace sluice
