// NicQueue: one RX queue of a NIC, as a worker sees it. Receives, and transmits for its worker.
//
//   AfXdpSocket    descriptor, rings, kicks: knows addresses (xsk/)
//   BufferSource   what lies at these addresses: pages of a pool (pool_buffers.h)
//   NicQueue       moves bursts between the two, and knows when the kernel has let go
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "memory/pool.h"
#include "memory/pool_directory.h"
#include "port/nic/buffer_source.h"
#include "port/nic/teardown_probe.h"
#include "port/nic/umem.h"
#include "port/port.h"
#include "xsk/af_xdp_socket.h"
#include "xsk/queue_kernel.h"

namespace sluice {

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

// Its life has steps that the kernel may take long for. They are made so that each such call can be left to
// another thread; open() and the destructor make them all at once and wait.
//
//   prepare()   next_bind() -> kernel.bind() -> bound()      fill()   release() -> let_go()     bring_home()
//   control     control        any thread       control      worker   control      any thread   the pool's
class NicQueue final : public Lane {
 public:
  // Control thread. Binds (waiting for a previous socket's pool to be torn down, at most 8 s), fills the fill
  // ring. Does not touch the XDP program: the caller puts socket_fd() into the demux program's XSKMAP.
  // `pools`: those whose pages may leave by this queue as they are; none: this pool's only. Errors: queue out
  // of range, in use by another socket, no zero copy where mode asks for it, frames that do not fit a page.
  static Result<std::unique_ptr<NicQueue>> open(const NicQueueOptions& options, Umem& umem, PagePool& pool,
                                                PoolDirectory* pools = nullptr);

  // Control thread: checks what can be known before, and makes what closing will need.
  static Result<std::unique_ptr<NicQueue>> prepare(const NicQueueOptions& options, Umem& umem,
                                                   std::unique_ptr<BufferSource> buffers,
                                                   QueueKernel& kernel = QueueKernel::real());
  // A call of bind(2) that is to be made.
  struct Bind {
    int socket = -1;
    sockaddr_xdp address{};
    UniqueFd sibling;  // keeps open what `address` names
  };
  // Control thread. Shares the registration of a queue that is bound by now, if there is one.
  Result<Bind> next_bind();
  enum class Bound : std::uint8_t { kYes, kBusy, kOtherwise };
  // Control thread: what has come of it. kBusy: another pool has the queue, next_bind() again later;
  // kOtherwise: sharing did not work, next_bind() now does without. An error is final.
  Result<Bound> bound(int error);
  bool is_bound() const { return bound_; }
  std::string explain_bind(int error) const;

  // The worker. Posts the first buffers, also for a queue that only sends: some drivers leak without (ice,
  // i40e).
  void fill() { refill(); }

  // Control thread: the MTU of the NIC is another one now. Longer frames are dropped as drop_too_long.
  void set_mtu(std::uint32_t mtu);

  // Control thread, when the worker has let go of it and no bind(2) is under way: gives up the rings. What
  // was never bound is done with then.
  void release();
  // Any thread, again until it says true: closes the socket, then asks whether the kernel has let go (D7).
  bool let_go();
  // The pool's thread, when let_go() has said so, again until it says true: every page that the kernel held
  // goes home, also those of other pools.
  bool bring_home();
  // All that without waiting where it was not done, and with waiting otherwise. The pool must be quiet: its
  // owner thread no longer uses it.
  ~NicQueue() override;

  int socket_fd() const;
  bool zero_copy() const;  // what XDP_OPTIONS says it became
  // rx_packets rx_bytes tx_packets tx_bytes tx_zero_copy tx_copied tx_linearised tx_kicks tx_kick_errors rx_kicks
  // drop_no_metadata drop_tx_ring_full drop_tx_no_page drop_too_long fault_rx_page fault_tx_page, and the
  // kernel's XDP_STATISTICS by their names: rx_dropped rx_invalid_descs tx_invalid_descs rx_ring_full
  // rx_fill_ring_empty_descs tx_ring_empty_descs. Asks the kernel for the latter: one system call, any
  // thread.
  void visit(CounterVisitor& visitor) const;

  // Lane: see port.h. A burst is what came by the wire.
  std::uint32_t burst(std::span<Packet> packets, BurstInfo& info) override;
  void done(std::span<const Packet> packets) override;
  void hand_over(const BurstInfo& info, std::span<Packet> packets) override;
  void copy_in(const BurstInfo& info, std::span<Packet> packets) override;
  std::uint32_t poll() override;
  int wake_fd() const override;
  bool prepare_sleep() override;

 private:
  NicQueue(const NicQueueOptions& options, Umem& umem, std::unique_ptr<BufferSource> buffers,
           QueueKernel& kernel);

  // queue_open.cc
  Result<void> open_socket(bool shared);
  Result<void> make_rings();
  void close_and_wait();

  // queue.cc
  std::uint32_t refill();
  std::uint32_t reap();
  void kick_tx();
  void send(std::span<Packet> packets, BufferSource::How how);

  // Read-only after it is bound.
  NicQueueOptions options_;
  Umem& umem_;
  const std::unique_ptr<BufferSource> buffers_;
  bool shared_ = false;           // the socket is to share a sibling's registration
  bool sharing_refused_ = false;  // its mode is not the sibling's
  bool bound_ = false;            // the kernel may have pages
  bool joined_ = false;           // the UMEM knows its socket
  bool released_ = false;
  bool home_ = false;  // no page is left here
  QueueKernel& kernel_;
  std::unique_ptr<TeardownProbe> probe_;

  AfXdpSocket socket_;
  bool tx_pending_ = false;  // descriptors that the kernel may not have seen yet
  bool tx_stalled_ = false;  // the NIC is down: kicking again changes nothing

  struct {
    Counter rx_packets, rx_bytes, tx_packets, tx_bytes, tx_kicks, tx_kick_errors, rx_kicks;
  } stats_;
};

}  // namespace sluice
