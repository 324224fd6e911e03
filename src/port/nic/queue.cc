// NicQueue's data path: the worker's half. Opening and closing: queue_open.cc.
//
// System calls here: one sendto per burst that was sent, when the kernel asks to be woken, and one recvfrom
// when the driver asks for it to look at the fill ring. Nothing else, and no lock, allocation or log.
#include "port/nic/queue.h"

#include <algorithm>
#include <atomic>

#include "base/ticks.h"
#include "port/last_signal.h"

namespace sluice {

// --- receive ---

std::uint32_t NicQueue::burst(std::span<Packet> packets, BurstInfo& info) {
  const std::uint32_t count =
      socket_.rx.peek(std::min<std::uint32_t>(kBurst, static_cast<std::uint32_t>(packets.size())));
  if (count == 0) {
    return 0;
  }
  const BufferSource::Moved taken = buffers_->received(socket_.rx, count, packets);
  socket_.rx.release(count);
  info.domain = accepts().pages_of;
  info.nic = options_.nic;
  info.queue = options_.queue;
  stats_.rx_packets.add(taken.packets);
  stats_.rx_bytes.add(taken.bytes);
  return taken.packets;
}

void NicQueue::done(std::span<const Packet> packets) {
  buffers_->recycle(packets);
}

// Posts buffers in bulks of kBurst; at most the ring's size of them (D6).
std::uint32_t NicQueue::refill() {
  std::uint32_t posted = 0;
  while (socket_.fill.reserve(kBurst) == kBurst) {
    const std::uint32_t count = buffers_->post(socket_.fill, kBurst);
    socket_.fill.submit(count);
    posted += count;
    if (count < kBurst) {
      break;
    }
  }
  return posted;
}

// --- transmit ---

void NicQueue::send(std::span<Packet> packets, BufferSource::How how) {
  const std::uint32_t room = socket_.tx.reserve(static_cast<std::uint32_t>(packets.size()));
  const BufferSource::Moved sent = buffers_->send(socket_.tx, room, packets, how);
  socket_.tx.submit(sent.packets);
  tx_pending_ |= sent.packets != 0;
  stats_.tx_packets.add(sent.packets);
  stats_.tx_bytes.add(sent.bytes);
}

void NicQueue::hand_over(const BurstInfo&, std::span<Packet> packets) {
  send(packets, BufferSource::How::kByPage);
}

void NicQueue::copy_in(const BurstInfo&, std::span<Packet> packets) {
  send(packets, BufferSource::How::kByCopy);
}

// What is out comes home; at most the completion ring's size of it (D6).
std::uint32_t NicQueue::reap() {
  std::uint32_t reaped = 0;
  while (reaped < options_.tx_entries) {
    const std::uint32_t count = socket_.completion.peek(kBurst);
    if (count == 0) {
      break;
    }
    buffers_->completed(socket_.completion, count);
    socket_.completion.release(count);
    reaped += count;
  }
  return reaped;
}

void NicQueue::kick_tx() {
  last_signal_ticks = now_ticks();
  const AfXdpSocket::Kick kick = socket_.kick_tx();
  stats_.tx_kicks.add(kick.calls);
  if (kick.calls != 0) {
    tx_stalled_ = kick.refused;  // the NIC's event tells the control thread
    stats_.tx_kick_errors.add(kick.refused ? 1 : 0);
  }
  tx_pending_ = kick.untaken != 0;
}

std::uint32_t NicQueue::poll() {
  std::uint32_t done = reap();
  if (!buffers_->all_home()) [[unlikely]] {
    done += buffers_->send_home();
  }
  done += refill();
  if (socket_.fill.needs_wakeup()) {
    stats_.rx_kicks.add(1);
    socket_.kick_rx();
  }
  if (tx_pending_) {
    kick_tx();
    done += tx_pending_ && !tx_stalled_ ? 1 : 0;
  }
  return done;
}

// --- sleep ---

int NicQueue::wake_fd() const {
  return socket_.fd();
}

bool NicQueue::prepare_sleep() {
  // There is no "I sleep" flag to raise: the kernel wakes whoever waits on the socket (sk_data_ready) after
  // each burst. The fence stands for the order that matters: what was posted before, then this look at the RX
  // ring.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return socket_.rx.peek(1) != 0 || socket_.completion.peek(1) != 0 || (tx_pending_ && !tx_stalled_) ||
         !buffers_->all_home();
}

}  // namespace sluice
