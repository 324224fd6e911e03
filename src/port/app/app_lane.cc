#include "port/app/app_lane.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "port/copy_bytes.h"
#include "port/flow_hash.h"
#include "port/prefetch.h"

namespace sluice {

namespace {

constexpr std::uint32_t kMinFrameBytes = 14;  // an Ethernet header

// Where a copied frame begins in its page: behind the 256 bytes that the kernel keeps free in front of one
// that it received (XDP_PACKET_HEADROOM), so that a page holds the same longest frame whoever filled it.
constexpr std::uint32_t kCopyOffset = 256;

}  // namespace

bool AppWake::wake() {
  const std::uint64_t one = 1;
  [[maybe_unused]] ssize_t sent = ::send(fd(), &one, sizeof(one), MSG_DONTWAIT | MSG_NOSIGNAL);
  return true;
}

AppLane::AppLane(LaneMemory memory, const LanePolicy& policy, AppLaneCounters& counters, PressureSink& sink)
    : Lane({.pages_of = domain_of(policy.port), .bytes = memory.arena->page_bytes() - kCopyOffset}),
      memory_(std::move(memory)),
      policy_(policy),
      has_address_(!policy.source.macs.empty() || policy.source.any_mac),
      sends_(policy.sends && has_address_),
      guard_(policy.source),
      counters_(counters),
      sink_(sink),
      page_mask_(memory_.arena->page_bytes() - 1) {
  SLUICE_CHECK(!memory_.pools.empty() && memory_.page_limit > 0);
  pressure_on_ = std::max(memory_.page_limit - memory_.page_limit / 4, 1u);
  pressure_off_ = std::max(memory_.page_limit / 2, 1u);
  counters_.pages_lent.set(0);
}

inline const LanePool* AppLane::pool_of(std::uint32_t page) const {
  for (const LanePool& candidate : memory_.pools) {
    if (page - candidate.first < candidate.count) {
      return &candidate;
    }
  }
  return nullptr;
}

std::uint32_t AppLane::admit(std::uint32_t wanted) {
  if (memory_.page_limit - lent_ < wanted) {
    take_back();  // what has come back since the last turn may be all that is missing
  }
  std::uint32_t allowed = memory_.page_limit - lent_;
  std::uint32_t room = memory_.rx.reserve(wanted);
  std::uint32_t admitted = std::min(allowed, room);  // room <= wanted
  if (admitted == wanted) [[likely]] {
    return admitted;
  }
  std::uint32_t dropped = wanted - admitted;
  if (allowed <= room) {
    counters_.drop_page_limit.add(dropped);
    session_.rx_dropped_page_limit += dropped;
  } else {
    counters_.drop_ring_full.add(dropped);
    session_.rx_dropped_ring_full += dropped;
  }
  stats_changed_ = true;
  return admitted;
}

inline void AppLane::write_entry(std::uint32_t slot, const BurstInfo& info, const Packet& packet,
                                 PageIndex page, std::uint32_t offset) {
  memory_.rx.entry(slot) = sluice_rx_entry{.page = raw(page),
                                           .offset = static_cast<std::uint16_t>(offset),
                                           .length = static_cast<std::uint16_t>(packet.bytes()),
                                           .rule = packet.rule,
                                           .flow_hash = flow_hash_of(front_of(packet)),
                                           .timestamp_ns = info.timestamp_ns,
                                           .nic = raw(info.nic),
                                           .queue = raw(info.queue),
                                           .reserved = 0};
}

void AppLane::delivered(std::uint32_t count, std::uint64_t bytes) {
  if (count == 0) {
    return;
  }
  memory_.rx.submit(count);
  lent_ += count;
  published_ = true;
  counters_.pages_lent.set(lent_);
  counters_.rx_packets.add(count);
  counters_.rx_bytes.add(bytes);
  session_.rx_packets += count;
  session_.rx_bytes += bytes;
  stats_changed_ = true;
  update_pressure();
}

void AppLane::hand_over(const BurstInfo& info, std::span<Packet> packets) {
  if (policy_.vlan == 0) [[likely]] {
    take_over(info, packets);
    return;
  }
  std::array<Packet, kBurst> untagged;
  std::array<std::uint8_t, kBurst> which;
  std::uint32_t count = 0;
  for (std::uint32_t i = 0; i < packets.size(); ++i) {
    if (is_of_our_vlan(packets[i])) {
      which[count] = static_cast<std::uint8_t>(i);
      untagged[count++] = without_tag(packets[i]);
    }
  }
  take_over(info, std::span(untagged).first(count));
  for (std::uint32_t i = 0; i < count; ++i) {
    packets[which[i]].page = untagged[i].page;
  }
}

bool AppLane::is_of_our_vlan(const Packet& packet) {
  const bool ours = vlan_of(front_of(packet)) == policy_.vlan;
  counters_.drop_vlan.add(ours ? 0 : 1);
  return ours;
}

// Of a packet in a page that the worker alone holds: the addresses move up to where the tag was.
Packet AppLane::without_tag(Packet packet) const {
  std::byte* frame = memory_.arena->page(packet.page) + page_offset_of(packet);
  std::memmove(frame + kVlanTagBytes, frame, kVlanTagOffset);
  packet.body += kVlanTagBytes;
  packet.body_bytes -= kVlanTagBytes;
  return packet;
}

// Of its body; pages are aligned to their size, a power of two.
inline std::uint32_t AppLane::page_offset_of(const Packet& packet) const {
  return static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(packet.body)) & page_mask_;
}

void AppLane::take_over(const BurstInfo& info, std::span<Packet> packets) {
  std::uint32_t admitted = admit(static_cast<std::uint32_t>(packets.size()));
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < admitted; ++i) {
    Packet& packet = packets[i];
    const LanePool* home = pool_of(raw(packet.page));
    SLUICE_CHECK(home != nullptr, "page {} is not of a queue that this worker serves", raw(packet.page));
    home->ledger->lend(packet.page, policy_.port);
    write_entry(i, info, packet, packet.page, page_offset_of(packet));
    bytes += packet.bytes();
    packet.page = PageIndex::kNone;
  }
  counters_.zero_copy.add(admitted);
  delivered(admitted, bytes);
}

void AppLane::copy_in(const BurstInfo& info, std::span<Packet> packets) {
  SLUICE_CHECK(packets.size() <= kBurst, "a burst of {}", packets.size());
  if (policy_.vlan == 0) [[likely]] {
    copy_frames(info, packets);
    return;
  }
  // Others may hear the same frame, with its tag: what changes is a copy of its front.
  std::array<std::array<std::byte, kMaxHead>, kBurst> fronts;
  std::array<Packet, kBurst> untagged;
  std::uint32_t count = 0;
  for (const Packet& packet : packets) {
    if (!is_of_our_vlan(packet)) {
      continue;
    }
    constexpr std::uint32_t kBehind = kVlanTagOffset + kVlanTagBytes;
    const std::span<const std::byte> front = front_of(packet);
    const std::uint32_t front_bytes = std::min(static_cast<std::uint32_t>(front.size()), kMaxHead);
    std::byte* head = fronts[count].data();
    std::memcpy(head, front.data(), kVlanTagOffset);
    std::memcpy(head + kVlanTagOffset, front.data() + kBehind, front_bytes - kBehind);
    Packet& fresh = untagged[count++] = packet;
    if (packet.head_bytes == 0) {
      fresh.body += front_bytes;
      fresh.body_bytes -= front_bytes;
    }
    fresh.head = head;
    fresh.head_bytes = static_cast<std::uint16_t>(front_bytes - kVlanTagBytes);
  }
  copy_frames(info, std::span(untagged).first(count));
}

void AppLane::copy_frames(const BurstInfo& info, std::span<const Packet> packets) {
  std::uint32_t admitted = admit(static_cast<std::uint32_t>(packets.size()));
  std::array<PageIndex, kBurst> pages;
  PagePool& pool = *memory_.pools[0].pool;
  Ledger& ledger = *memory_.pools[0].ledger;
  // The pool has as many pages as the limit allows to be lent, so what was admitted can be had.
  std::uint32_t had = pool.alloc_bulk(std::span(pages).first(admitted));
  SLUICE_CHECK(had == admitted, "pool {} gave {} of {} pages with {} lent", pool.name(), had, admitted,
               lent_);
  for (std::uint32_t i = 0; i < admitted; ++i) {
    prefetch_to_write(memory_.arena->page(pages[i]) + kCopyOffset);
  }
  const std::uint32_t longest = accepts().bytes;
  std::uint32_t used = 0;
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < admitted; ++i) {
    const Packet& packet = packets[i];
    if (i + 1 < admitted) {
      const Segment next = body_of(packets[i + 1]);
      prefetch_copy(memory_.arena->page(pages[used + 1]) + kCopyOffset, next.data, next.bytes, 64);
    }
    if (packet.bytes() > longest) [[unlikely]] {
      continue;
    }
    std::byte* frame = memory_.arena->page(pages[used]) + kCopyOffset;
    copy_frame(frame, packet);
    ledger.lend(pages[used], policy_.port);
    write_entry(used, info, packet, pages[used], kCopyOffset);
    bytes += packet.bytes();
    ++used;
  }
  if (used < admitted) [[unlikely]] {
    counters_.drop_too_long.add(admitted - used);
    pool.release_bulk(std::span<const PageIndex>(pages).subspan(used, admitted - used));
  }
  counters_.copied.add(used);
  counters_.copied_bytes.add(bytes);
  delivered(used, bytes);
}

// The pool that a returned page goes home to; null when it may not be returned, which is counted.
inline PagePool* AppLane::take_back_one(std::uint32_t untrusted_page) {
  // A page of another lane is another worker's to account for, so its pool is looked up before any ledger is.
  const LanePool* home = pool_of(untrusted_page);
  if (home == nullptr) [[unlikely]] {
    bool exists = untrusted_page < memory_.page_count;
    (exists ? counters_.fault_return_foreign : counters_.fault_return_forged).add(1);
    return nullptr;
  }
  switch (home->ledger->give_back(untrusted_page, policy_.port)) {
    [[likely]] case PageFault::kNone:
      return home->pool;
    case PageFault::kForged:
      counters_.fault_return_forged.add(1);
      return nullptr;
    case PageFault::kForeign:
      counters_.fault_return_foreign.add(1);
      return nullptr;
    case PageFault::kDouble:
      counters_.fault_return_double.add(1);
      return nullptr;
  }
  return nullptr;
}

std::uint32_t AppLane::take_back() {
  std::uint32_t count = memory_.back.peek(kBackPerTurn);  // D6
  if (count == 0) {
    return 0;
  }
  std::uint32_t good = 0;
  std::array<PageIndex, kBackPerTurn> home;  // of one pool after the other
  std::uint32_t gone = 0;                    // of them
  PagePool* pool = memory_.pools.front().pool;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t page = memory_.back.read(i);
    PagePool* its = take_back_one(page);
    if (its == nullptr) [[unlikely]] {
      continue;
    }
    if (its != pool) {
      pool->release_bulk(std::span(home).subspan(gone, good - gone));
      gone = good;
      pool = its;
    }
    home[good++] = PageIndex{page};
  }
  pool->release_bulk(std::span(home).subspan(gone, good - gone));
  memory_.back.release(count);
  SLUICE_CHECK(good <= lent_, "{} pages came back of {}", good, lent_);
  lent_ -= good;
  counters_.pages_lent.set(lent_);
  counters_.pages_returned.add(good);
  session_.faults += count - good;
  stats_changed_ = true;
  update_pressure();
  return count;
}

void AppLane::update_pressure() {
  bool on = pressure_ ? lent_ >= pressure_off_ : lent_ >= pressure_on_;
  if (on != pressure_) [[unlikely]] {
    pressure_ = on;
    sink_.pressure(policy_.worker, on);
  }
}

bool AppLane::admit_tx(const sluice_tx_entry& entry, std::uint32_t position) const {
  std::uint32_t slot = position & (memory_.tx.size() - 1);
  std::uint32_t slot_offset = memory_.tx_first_offset + slot * memory_.tx_slot_bytes;
  return entry.length >= kMinFrameBytes && entry.length <= memory_.tx_slot_bytes &&
         entry.offset - slot_offset <=
             memory_.tx_slot_bytes - entry.length;  // an offset below wraps to a huge one
}

// A slot is a page, so a burst is never more than a turn's bytes.
std::uint32_t AppLane::burst(std::span<Packet> packets, BurstInfo& info) {
  SLUICE_CHECK(tx_out_ == 0, "{} packets of the last burst are not done", tx_out_);
  std::uint32_t wanted = std::min(static_cast<std::uint32_t>(packets.size()), kBurst);  // D6
  std::uint32_t count = memory_.tx.peek(wanted);
  if (count == 0) {
    return 0;
  }
  std::uint32_t taken = 0, no_way = 0, bad_descriptor = 0;
  std::uint64_t bytes = 0;
  guard_.begin_burst(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    const sluice_tx_entry entry = memory_.tx.read(i);
    if (!admit_tx(entry, memory_.tx.consumed() + i)) [[unlikely]] {
      ++bad_descriptor;
      continue;
    }
    if (!sends_) [[unlikely]] {
      ++no_way;
      continue;
    }
    const std::byte* frame = memory_.tx_arena + entry.offset;
    std::byte* head = heads_[taken].data() + kHeadFront;
    std::uint32_t head_bytes = std::min(entry.length, guard_.most_head());
    const std::uint32_t body_bytes = entry.length - head_bytes;
    const std::byte* body = frame + head_bytes;
    copy_bytes(head, frame, head_bytes);
    asm volatile(""
                 :
                 : "r"(head)
                 : "memory");  // D3: from here on `head` is what is judged, never `frame` again
    if (!guard_.admit(head, head_bytes, body_bytes == 0, counters_.source)) [[unlikely]] {
      continue;
    }
    packets[taken] = Packet{.body = body,
                            .head = head,
                            .body_bytes = body_bytes,
                            .head_bytes = static_cast<std::uint16_t>(head_bytes),
                            .port = policy_.uplink};
    bytes += head_bytes + body_bytes;
    ++taken;
  }
  info.uplink = policy_.uplink;
  tx_peeked_ = count;
  tx_out_ = taken;
  counters_.tx_packets.add(taken);
  counters_.tx_bytes.add(bytes);
  session_.tx_packets += taken;
  if (taken < count) [[unlikely]] {
    counters_.fault_tx_descriptor.add(bad_descriptor);
    (has_address_ ? counters_.drop_tx_no_uplink : counters_.drop_tx_no_address).add(no_way);
    session_.tx_dropped += count - taken;
    session_.faults += bad_descriptor;
  }
  stats_changed_ = true;
  if (taken == 0) {
    memory_.tx.release(count);  // nothing of it is out, so nobody will call done()
  }
  return taken;
}

void AppLane::done(std::span<const Packet> packets) {
  SLUICE_CHECK(packets.size() == tx_out_, "{} done of {} packets out", packets.size(), tx_out_);
  if (std::exchange(tx_out_, 0) != 0) {
    memory_.tx.release(tx_peeked_);  // refused entries with it: the slots are free in order
  }
}

std::uint32_t AppLane::poll() {
  std::uint32_t done = take_back();
  if (published_ && ++turns_put_off_ == kTurnsBeforeWake) {
    wake_app();
  }
  count_ring_faults();
  publish_stats();
  return done;
}

std::uint32_t AppLane::taken_by_app() {
  return memory_.rx.produced() - memory_.rx.in_ring();
}

void AppLane::wake_app() {
  if (!published_) {
    return;
  }
  published_ = false;
  turns_put_off_ = 0;
  if (!memory_.rx.peer_needs_wakeup()) {
    wake_under_way_ = false;
    return;
  }
  // An app that has taken nothing since the last wake-up has not come to run yet: it will look at the ring
  // before it sleeps again, and finds this too. On a core that it shares with the worker that is one system
  // call per nap, not per turn.
  const std::uint32_t taken = taken_by_app();
  // One that has taken all before it went to sleep would find nothing, sleep again, and seem to be on its way
  // for ever.
  if (taken == memory_.rx.produced() || (wake_under_way_ && taken == taken_at_wake_)) {
    return;
  }
  wake_under_way_ = true;
  taken_at_wake_ = taken;
  counters_.wakeups.add(1);
  AppWake& wake = *memory_.wake_app;
  if (policy_.waker == nullptr) {
    wake.wake();
  } else if (wake.price().dear()) [[unlikely]] {
    policy_.waker->ask(wake);
  } else {
    wake.price().make(1, [&wake] { wake.wake(); });
  }
}

// More than half of the ring. An app that has taken nothing since this was last said is not waiting for the
// core.
bool AppLane::peer_is_behind() {
  const std::uint32_t half = memory_.rx.size() / 2;
  if (memory_.rx.reserve(half) == half) [[likely]] {
    return false;
  }
  const std::uint32_t taken = taken_by_app();
  return std::exchange(taken_when_behind_, taken) != taken;
}

bool AppLane::prepare_sleep() {
  wake_app();
  bool work = memory_.tx.prepare_sleep();
  // Pages that come back matter to a sleeping worker only when it may be short of them.
  if (lent_ >= pressure_off_) {
    work = memory_.back.prepare_sleep() || work;
  }
  if (work) {
    memory_.tx.cancel_sleep();
    memory_.back.cancel_sleep();
  }
  count_ring_faults();
  publish_stats();
  return work;
}

void AppLane::woken() {
  memory_.tx.cancel_sleep();
  memory_.back.cancel_sleep();
  // The edge is taken from the set, and the eventfd left alone: who reads it tells all that the app has
  // watching it.
  epoll_event kick;
  [[maybe_unused]] const int kicks = ::epoll_wait(memory_.wake_daemon, &kick, 1, 0);
}

void AppLane::count_ring_faults() {
  std::uint64_t faults = memory_.rx.faults() + memory_.back.faults() + memory_.tx.faults();
  if (faults != ring_faults_) [[unlikely]] {
    counters_.fault_ring_index.add(faults - ring_faults_);
    session_.faults += faults - ring_faults_;
    ring_faults_ = faults;
    stats_changed_ = true;
  }
}

void AppLane::publish_stats() {
  if (!stats_changed_) {
    return;
  }
  stats_changed_ = false;
  session_.pages_held = lent_;
  sluice_lane_stats& shared = *memory_.shared_stats;
  write_once(shared.rx_packets, session_.rx_packets);
  write_once(shared.rx_bytes, session_.rx_bytes);
  write_once(shared.rx_dropped_ring_full, session_.rx_dropped_ring_full);
  write_once(shared.rx_dropped_page_limit, session_.rx_dropped_page_limit);
  write_once(shared.tx_packets, session_.tx_packets);
  write_once(shared.tx_dropped, session_.tx_dropped);
  write_once(shared.pages_held, session_.pages_held);
  write_once(shared.faults, session_.faults);
}

}  // namespace sluice
