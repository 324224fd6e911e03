// NicQueue's data path: the worker's half. Opening and closing: queue_open.cc.
//
// System calls here: one sendto per burst that was sent, when the kernel asks to be woken, and one recvfrom
// when the driver asks for it to look at the fill ring. Nothing else, and no lock, allocation or log.
#include "port/nic/queue.h"

#include <linux/if_xdp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "abi/packet_meta.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/ticks.h"
#include "port/copy_bytes.h"
#include "port/last_signal.h"
#include "port/prefetch.h"

namespace sluice {

namespace {

// How far ahead the metadata of packets is asked for. Not a whole burst: pages are a power of two apart, so
// their metadata fall into very few sets of the first-level cache, and more than these would push each other
// out.
constexpr std::uint32_t kPrefetchAhead = 8;

// Copy mode sends at most this many frames per system call (net/xdp/xsk.c, TX_BATCH_SIZE).
constexpr std::uint32_t kFramesPerKick = 32;

}  // namespace

DomainId NicQueue::domain() const {
  return umem_.arena().domain();
}

// --- receive ---

std::uint32_t NicQueue::receive(std::span<Packet> packets, Source& source) {
  std::uint32_t count = rx_.peek(std::min<std::uint32_t>(kBurst, static_cast<std::uint32_t>(packets.size())));
  if (count == 0) {
    return 0;
  }
  for (std::uint32_t i = 0; i < std::min(count, kPrefetchAhead); ++i) {
    prefetch_to_read(pages_ + rx_.entry(i).addr - sizeof(sluice_packet_meta));
  }
  std::uint32_t taken = 0;
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (i + kPrefetchAhead < count) {
      prefetch_to_read(pages_ + rx_.entry(i + kPrefetchAhead).addr - sizeof(sluice_packet_meta));
    }
    const xdp_desc& descriptor = rx_.entry(i);
    std::uint64_t index = descriptor.addr >> page_shift_;
    if (index >= page_count_ || page_states_[index] != PageState::kFill) [[unlikely]] {
      stats_.fault_rx_page.add(1);  // not a page that the kernel has: whose it is, it stays
      continue;
    }
    page_states_[index] = PageState::kNotHere;
    Packet& packet = packets[taken++];
    std::uint32_t offset = static_cast<std::uint32_t>(descriptor.addr) & (page_bytes_ - 1);
    const std::byte* frame = pages_ + descriptor.addr;
    bytes += descriptor.len;
    packet.body = frame;
    packet.head = nullptr;
    packet.body_bytes = descriptor.len;
    packet.head_bytes = 0;
    packet.page = static_cast<PageIndex>(index);
    packet.page_offset = static_cast<std::uint16_t>(offset);
    sluice_packet_meta meta{};
    if (offset >= sizeof(meta)) [[likely]] {
      std::memcpy(&meta, frame - sizeof(meta), sizeof(meta));
    }
    packet.rule = sluice_meta_rule(meta);
    packet.port = static_cast<PortId>(sluice_meta_port(meta));
    if (!sluice_meta_is_ours(meta)) [[unlikely]] {
      stats_.drop_no_metadata.add(1);
      packet.rule = raw(RuleSlot::kNone);
      packet.port = PortId::kDrop;
    }
  }
  rx_.release(count);
  source.domain = domain();
  source.port = PortId::kKernel;
  source.nic = options_.nic;
  source.queue = options_.queue;
  source.timestamp_ns = now_ns();
  stats_.rx_packets.add(taken);
  stats_.rx_bytes.add(bytes);
  return taken;
}

void NicQueue::recycle(std::span<const Packet> packets) {
  std::array<PageIndex, kBurst> home;
  std::uint32_t count = 0;
  for (const Packet& packet : packets) {
    if (packet.page != PageIndex::kNone) {
      home[count++] = packet.page;
      if (count == kBurst) {
        pool_.release_bulk(home);
        count = 0;
      }
    }
  }
  pool_.release_bulk(std::span(home.data(), count));
}

// Posts pages in bulks of kBurst; at most the ring's size of them (D6).
std::uint32_t NicQueue::refill() {
  std::array<PageIndex, kBurst> fresh;
  std::uint32_t posted = 0;
  while (fill_.reserve(kBurst) == kBurst) {
    std::uint32_t count = pool_.alloc_bulk(fresh);
    for (std::uint32_t i = 0; i < count; ++i) {
      state(fresh[i]) = PageState::kFill;
      fill_.slot(i) = std::uint64_t{raw(fresh[i])} << page_shift_;
    }
    fill_.submit(count);
    posted += count;
    if (count < kBurst) {
      break;
    }
  }
  return posted;
}

// --- transmit ---

bool NicQueue::can_send_in_place(const Packet& packet) const {
  // A frame in one piece, in this arena: `host` may have several arenas, and an app's own frames lie outside
  // of any.
  return packet.page != PageIndex::kNone && packet.head_bytes == 0 && raw(packet.page) < page_count_ &&
         packet.body == pages_ + (std::size_t{raw(packet.page)} << page_shift_) + packet.page_offset;
}

bool NicQueue::send_in_place(Packet& packet) {
  if (packet.page_offset + packet.body_bytes > page_bytes_) {
    stats_.drop_too_long.add(1);
    return false;
  }
  if (tx_written_ == tx_slots_) {
    stats_.drop_tx_ring_full.add(1);
    return false;
  }
  if (!pool_.contains(packet.page)) {
    if (foreign_out_ == options_.tx_entries) {  // so that foreign_home_ never grows
      stats_.drop_tx_ring_full.add(1);
      return false;
    }
    umem_.lent_to_sibling(packet.page, 1);
    ++foreign_out_;
  }
  SLUICE_CHECK(state(packet.page) == PageState::kNotHere, "page {} is with the kernel", raw(packet.page));
  state(packet.page) = PageState::kTx;
  xdp_desc& descriptor = tx_.slot(tx_written_++);
  descriptor.addr = (std::uint64_t{raw(packet.page)} << page_shift_) + packet.page_offset;
  descriptor.len = packet.body_bytes;
  descriptor.options = 0;
  packet.page = PageIndex::kNone;
  stats_.tx_zero_copy.add(1);
  return true;
}

bool NicQueue::send_copy(const Packet& packet) {
  std::uint32_t bytes = packet.bytes();
  if (bytes > page_bytes_) {
    stats_.drop_too_long.add(1);
    return false;
  }
  if (tx_written_ == tx_slots_) {
    stats_.drop_tx_ring_full.add(1);
    return false;
  }
  PageIndex page = pool_.alloc();
  if (page == PageIndex::kNone) {
    stats_.drop_tx_no_page.add(1);
    return false;
  }
  std::byte* to = pages_ + (std::size_t{raw(page)} << page_shift_);
  copy_frame(to, packet);
  state(page) = PageState::kTx;
  xdp_desc& descriptor = tx_.slot(tx_written_++);
  descriptor.addr = std::uint64_t{raw(page)} << page_shift_;
  descriptor.len = bytes;
  descriptor.options = 0;
  stats_.tx_copied.add(1);
  return true;
}

void NicQueue::hand_over(const Source&, std::span<Packet> packets) {
  tx_slots_ = tx_.reserve(static_cast<std::uint32_t>(packets.size()));
  tx_written_ = 0;
  std::uint64_t bytes = 0;
  for (Packet& packet : packets) {
    std::uint32_t length = packet.bytes();
    if (can_send_in_place(packet) ? send_in_place(packet) : send_copy(packet)) {
      bytes += length;
    }
  }
  tx_.submit(tx_written_);
  tx_pending_ |= tx_written_ != 0;
  stats_.tx_packets.add(tx_written_);
  stats_.tx_bytes.add(bytes);
}

void NicQueue::copy_in(const Source&, std::span<Packet> packets) {
  tx_slots_ = tx_.reserve(static_cast<std::uint32_t>(packets.size()));
  tx_written_ = 0;
  std::uint64_t bytes = 0;
  for (const Packet& packet : packets) {
    if (send_copy(packet)) {
      bytes += packet.bytes();
    }
  }
  tx_.submit(tx_written_);
  tx_pending_ |= tx_written_ != 0;
  stats_.tx_packets.add(tx_written_);
  stats_.tx_bytes.add(bytes);
}

// Pages that are out come home; at most the completion ring's size of them (D6).
std::uint32_t NicQueue::reap() {
  std::array<PageIndex, kBurst> home;
  std::uint32_t reaped = 0;
  while (reaped < options_.tx_entries) {
    std::uint32_t count = completion_.peek(kBurst);
    if (count == 0) {
      break;
    }
    std::uint32_t own = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
      std::uint64_t index = completion_.entry(i) >> page_shift_;
      if (index >= page_count_ || page_states_[index] != PageState::kTx) [[unlikely]] {
        stats_.fault_tx_page.add(1);
        continue;
      }
      page_states_[index] = PageState::kNotHere;
      PageIndex page = static_cast<PageIndex>(index);
      if (pool_.contains(page)) [[likely]] {
        home[own++] = page;
      } else {
        foreign_home_.push_back(page);  // within its capacity: foreign_out_ is bounded
      }
    }
    completion_.release(count);
    pool_.release_bulk(std::span(home.data(), own));
    reaped += count;
  }
  return reaped;
}

// To the return ring of their own pool, whose owner may be another thread. What does not fit waits for the
// next turn.
std::uint32_t NicQueue::send_home_foreign() {
  std::uint32_t sent = 0;
  while (!foreign_home_.empty()) {
    PageIndex page = foreign_home_.back();
    PagePool* pool = umem_.pool_of(page);
    SLUICE_CHECK(pool != nullptr, "page {} is of no pool", raw(page));
    if (pool->release_remote(std::span(&page, 1)) == 0) {
      break;
    }
    umem_.lent_to_sibling(page, -1);
    foreign_home_.pop_back();
    --foreign_out_;
    ++sent;
  }
  return sent;
}

void NicQueue::kick_tx() {
  std::uint32_t untaken = tx_.untaken();
  // In copy mode the kernel always asks; in zero-copy mode only when the driver has gone to sleep.
  last_signal_ticks = now_ticks();
  std::uint32_t rounds = zero_copy_ ? 1 : untaken / kFramesPerKick + 1;
  while (untaken != 0 && rounds-- != 0 && tx_.needs_wakeup()) {
    stats_.tx_kicks.add(1);
    bool failed = ::sendto(socket_.get(), nullptr, 0, MSG_DONTWAIT, nullptr, 0) < 0;
    // EAGAIN: more to send, or the socket's send buffer is full. EBUSY, ENOBUFS: the device's queue is full.
    // All pass.
    bool passing = !failed || errno == EAGAIN || errno == EBUSY || errno == ENOBUFS;
    tx_stalled_ = !passing;
    std::uint32_t left = tx_.untaken();
    if (!passing) {
      stats_.tx_kick_errors.add(
          1);  // ENETDOWN, ENXIO: the NIC is down or gone; its event tells the control thread
      break;
    }
    if (left == untaken) {
      break;
    }
    untaken = left;
  }
  tx_pending_ = tx_.untaken() != 0;
}

void NicQueue::kick_rx() {
  stats_.rx_kicks.add(1);
  ::recvfrom(socket_.get(), nullptr, 0, MSG_DONTWAIT, nullptr, nullptr);
}

std::uint32_t NicQueue::poll() {
  std::uint32_t done = reap();
  if (!foreign_home_.empty()) [[unlikely]] {
    done += send_home_foreign();
  }
  done += refill();
  if (fill_.needs_wakeup()) {
    kick_rx();
  }
  if (tx_pending_) {
    kick_tx();
    done += tx_pending_ && !tx_stalled_ ? 1 : 0;
  }
  return done;
}

std::uint32_t NicQueue::tx_burst(std::span<Packet>) {
  return 0;
}

void NicQueue::tx_done(std::uint32_t count) {
  SLUICE_CHECK(count == 0, "a NIC has no packets to send: {}", count);
}

// --- sleep ---

int NicQueue::wake_fd() const {
  return socket_.get();
}

bool NicQueue::prepare_sleep() {
  // There is no "I sleep" flag to raise: the kernel wakes whoever waits on the socket (sk_data_ready) after
  // each burst. The fence stands for the order that matters: what was posted before, then this look at the RX
  // ring.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return rx_.peek(1) != 0 || completion_.peek(1) != 0 || (tx_pending_ && !tx_stalled_) ||
         !foreign_home_.empty();
}

void NicQueue::woken() {}

}  // namespace sluice
