// BroadcastQueue: brings what the wire says to everybody, broadcast and multicast, to the worker, who floods
// it. The XDP program has passed those frames to the kernel; this takes a second copy of them from a packet
// socket, for the ports that have addresses of their own on this NIC.
//
// One per NIC that is the uplink of such a port, at one worker. Only what came from the wire is seen
// (PACKET_IGNORE_OUTGOING): not what the host sends on the NIC, nor what leaves by AF_XDP. The kernel fills a
// ring that is mapped here; receiving costs no system call.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/ids.h"
#include "base/mac.h"
#include "base/result.h"
#include "port/port.h"
#include "stats/counter.h"

namespace sluice {

struct BroadcastQueueOptions {
  std::string netdev;  // "eth1", in this process's network namespace
  int ifindex = 0;
  NicId nic{0};
  PortId port{0};  // the NIC's own: what the switch knows as `uplink`
};

class BroadcastQueue final : public Polled {
 public:
  static constexpr std::uint32_t kFrames = 256;      // of the ring; more at one time are dropped and counted
  static constexpr std::uint32_t kSlotBytes = 2048;  // longer frames are dropped and counted

  // Control thread. From then on the NIC takes in all multicast. Errors: no CAP_NET_RAW, no such device.
  static Result<std::unique_ptr<BroadcastQueue>> open(const BroadcastQueueOptions& options);
  ~BroadcastQueue() override;

  // Control thread. The addresses that the NIC is to take in besides its own, until the queue is gone: those
  // of the ports behind it. (A NIC that cannot filter so many takes in everything by itself.) Replaces the
  // former list; an error names the address, and leaves the others in place.
  Result<void> accept(std::span<const MacAddress> macs);

  // rx_packets rx_bytes drop_too_long drop_broadcast_ring_full. Asks the kernel for the last one: any thread.
  void visit(CounterVisitor& visitor) const;

  // Source and Sleeper: see port.h. Packets have port = kFlood and no page.
  std::uint32_t burst(std::span<Packet> packets, BurstInfo& info) override;
  void done(std::span<const Packet> packets) override;
  int wake_fd() const override { return socket_.get(); }
  bool prepare_sleep() override;
  void woken() override;

 private:
  explicit BroadcastQueue(const BroadcastQueueOptions& options) : options_(options) {}
  Result<void> make_socket();
  Result<void> make_ring();
  Result<void> join(int action, std::uint16_t type, const MacAddress& mac);
  std::byte* slot(std::uint32_t position) const {
    return ring_.data() + std::size_t{position % kFrames} * kSlotBytes;
  }

  const BroadcastQueueOptions options_;
  UniqueFd socket_;
  Mapping ring_;
  std::vector<MacAddress> macs_;
  std::uint32_t next_ = 0;  // slot that the kernel fills next, as far as we have looked
  std::uint32_t out_ = 0;   // slots before it that a burst is being read from

  Counter rx_packets_, rx_bytes_, drop_too_long_;
  mutable std::atomic<std::uint64_t> ring_full_{0};  // the kernel forgets its own count when it is read
};

}  // namespace sluice
