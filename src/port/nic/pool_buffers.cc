#include "port/nic/pool_buffers.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "abi/packet_meta.h"
#include "base/check.h"
#include "port/copy_bytes.h"
#include "port/nic/umem.h"
#include "port/prefetch.h"

namespace sluice {

namespace {

// How far ahead the metadata of packets is asked for. Not a whole burst: pages are a power of two apart, so
// their metadata fall into very few sets of the first-level cache, and more than these would push each other
// out.
constexpr std::uint32_t kPrefetchAhead = 8;

}  // namespace

PoolBuffers::PoolBuffers(PagePool& pool, std::uint32_t tx_entries, PoolDirectory* pools)
    : pool_(pool),
      pools_(pools),
      pages_(pool.arena().data()),
      page_bytes_(pool.arena().page_bytes()),
      page_shift_(static_cast<std::uint32_t>(std::countr_zero(pool.arena().page_bytes()))),
      first_(raw(pool.first())),
      states_(pool.page_count(), PageState::kNotHere),
      foreign_(tx_entries) {
  SLUICE_CHECK(std::has_single_bit(page_bytes_), "page bytes {}", page_bytes_);
  strays_.reserve(tx_entries);
}

std::uint32_t PoolBuffers::room() const {
  return page_bytes_ - kFrameOffset;
}

inline PoolBuffers::PageState* PoolBuffers::state_of(std::uint64_t page) {
  const std::uint64_t slot = page - first_;  // below first_ it wraps to a slot that is too large
  return slot < states_.size() ? &states_[slot] : nullptr;
}

// --- receive ---

std::uint32_t PoolBuffers::post(KernelRing<std::uint64_t>& fill, std::uint32_t wanted) {
  std::array<PageIndex, kBurst> fresh;
  const std::uint32_t count = pool_.alloc_bulk(std::span(fresh).first(std::min(kBurst, wanted)));
  PageState* const states = states_.data();
  const auto ring = fill.window();
  const std::uint32_t first = first_, shift = page_shift_;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t page = raw(fresh[i]);
    states[page - first] = PageState::kFill;
    ring[i] = std::uint64_t{page} << shift;
  }
  return count;
}

BufferSource::Moved PoolBuffers::received(const KernelRing<xdp_desc>& rx, std::uint32_t count,
                                          std::span<Packet> packets) {
  // In registers: the compiler cannot know that nothing of this changes while packets are written.
  const auto ring = rx.window();
  const std::byte* const pages = pages_;
  PageState* const states = states_.data();
  const std::uint64_t first = first_, state_count = states_.size();
  const std::uint32_t shift = page_shift_, offset_mask = page_bytes_ - 1;
  for (std::uint32_t i = 0; i < std::min(count, kPrefetchAhead); ++i) {
    prefetch_to_read(pages + ring[i].addr - sizeof(sluice_packet_meta));
  }
  std::uint32_t taken = 0;
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (i + kPrefetchAhead < count) {
      prefetch_to_read(pages + ring[i + kPrefetchAhead].addr - sizeof(sluice_packet_meta));
    }
    const xdp_desc descriptor = ring[i];
    const std::uint64_t index = descriptor.addr >> shift;
    const std::uint64_t slot = index - first;  // below it wraps to a slot that is too large
    if (slot >= state_count || states[slot] != PageState::kFill) [[unlikely]] {
      counters_.fault_rx_page.add(1);  // not a page that the kernel has: whose it is, it stays
      continue;
    }
    states[slot] = PageState::kNotHere;
    Packet& packet = packets[taken++];
    const std::uint32_t offset = static_cast<std::uint32_t>(descriptor.addr) & offset_mask;
    const std::byte* frame = pages + descriptor.addr;
    bytes += descriptor.len;
    packet.body = frame;
    packet.head = nullptr;
    packet.extra = nullptr;
    packet.body_bytes = descriptor.len;
    packet.page = static_cast<PageIndex>(index);
    packet.head_bytes = 0;
    sluice_packet_meta meta{};
    if (offset >= sizeof(meta)) [[likely]] {
      std::memcpy(&meta, frame - sizeof(meta), sizeof(meta));
    }
    packet.rule = sluice_meta_rule(meta);
    packet.port = static_cast<PortId>(sluice_meta_port(meta));
    if (!sluice_meta_is_ours(meta)) [[unlikely]] {
      counters_.drop_no_metadata.add(1);
      packet.rule = raw(RuleSlot::kNone);
      packet.port = PortId::kDrop;
    }
  }
  return {taken, bytes};
}

void PoolBuffers::recycle(std::span<const Packet> packets) {
  std::array<PageIndex, kBurst> home;
  while (!packets.empty()) {
    const std::span<const Packet> burst = packets.first(std::min<std::size_t>(kBurst, packets.size()));
    std::uint32_t count = 0;
    for (const Packet& packet : burst) {  // without a branch: none is taken, or all are
      home[count] = packet.page;
      count += packet.page != PageIndex::kNone ? 1 : 0;
    }
    pool_.release_bulk(std::span(home.data(), count));
    packets = packets.subspan(burst.size());
  }
}

// --- transmit ---

// A frame in one piece, in this arena: `host` may have several arenas, and an app's own frames lie outside of
// any.
inline bool PoolBuffers::lies_here(const Packet& packet) const {
  return packet.page != PageIndex::kNone && packet.head_bytes == 0 &&
         (reinterpret_cast<std::uintptr_t>(packet.body) - reinterpret_cast<std::uintptr_t>(pages_)) >>
                 page_shift_ ==
             raw(packet.page);
}

inline bool PoolBuffers::may_go(Sending& sending, std::uint32_t bytes) {
  if (bytes > sending.longest) [[unlikely]] {
    counters_.drop_too_long.add(1);
    return false;
  }
  if (sending.written == sending.room) [[unlikely]] {
    counters_.drop_tx_ring_full.add(1);
    return false;
  }
  return true;
}

inline void PoolBuffers::write(Sending& sending, std::uint64_t address, std::uint32_t bytes) {
  xdp_desc& descriptor = sending.tx[sending.written++];
  descriptor.addr = address;
  descriptor.len = bytes;
  descriptor.options = 0;
  sending.bytes += bytes;
}

PoolDirectory::Entry* PoolBuffers::lender_of(PageIndex page) {
  if (lender_ == nullptr || !lender_->contains(page)) {
    lender_ = pools_->find(page);
  }
  return lender_;
}

// A page of another pool: may it go out here? `wanted`: most that this burst can still ask for.
bool PoolBuffers::borrow(Sending& sending, PageIndex page, std::uint32_t wanted) {
  if (pools_ == nullptr) {
    return false;
  }
  if (sending.lender == nullptr || !sending.lender->contains(page)) {
    if (sending.lender != nullptr && sending.granted != 0) {
      sending.lender->unlend(sending.granted);
    }
    sending.lender = lender_of(page);
    const auto free = static_cast<std::uint32_t>(foreign_.most() - foreign_.count() - strays_.size());
    sending.granted = sending.lender == nullptr ? 0 : sending.lender->lend(std::min(wanted, free));
  }
  return sending.granted != 0;
}

inline bool PoolBuffers::send_page(Sending& sending, Packet& packet) {
  const auto address = static_cast<std::uint64_t>(packet.body - pages_);
  if ((address & (page_bytes_ - 1)) + packet.body_bytes > page_bytes_) [[unlikely]] {
    counters_.drop_too_long.add(1);
    return false;
  }
  if (PageState* state = state_of(raw(packet.page))) {
    SLUICE_CHECK(*state == PageState::kNotHere, "page {} is with the kernel", raw(packet.page));
    *state = PageState::kTx;
  } else {
    foreign_.insert(packet.page);
    --sending.granted;
  }
  write(sending, address, packet.body_bytes);
  packet.page = PageIndex::kNone;
  return true;
}

inline bool PoolBuffers::send_copy(Sending& sending, const Packet& packet) {
  const PageIndex page = pool_.alloc();
  if (page == PageIndex::kNone) [[unlikely]] {
    counters_.drop_tx_no_page.add(1);
    return false;
  }
  const std::uint64_t address = std::uint64_t{raw(page)} << page_shift_;
  copy_frame(pages_ + address, packet);
  states_[raw(page) - first_] = PageState::kTx;
  write(sending, address, packet.bytes());
  counters_.tx_linearised.add(packet.segments().empty() ? 0 : 1);
  return true;
}

// A pool that has lent all that it can spare lends no more: the frame is copied then, as one is that lies
// elsewhere.
BufferSource::Moved PoolBuffers::send(KernelRing<xdp_desc>& tx, std::uint32_t room, std::span<Packet> packets,
                                      How how) {
  Sending sending{.tx = tx.window(), .room = room, .longest = std::min(longest(), page_bytes_)};
  std::uint32_t by_page = 0;
  if (how == How::kByCopy) {
    for (const Packet& packet : packets) {
      may_go(sending, packet.bytes()) && send_copy(sending, packet);
    }
  } else {
    by_page = send_pages(sending, packets);
  }
  if (by_page != 0) {
    counters_.tx_zero_copy.add(by_page);
  }
  counters_.tx_copied.add(sending.written - by_page);
  return {sending.written, sending.bytes};
}

// How many went by their page.
std::uint32_t PoolBuffers::send_pages(Sending& sending, std::span<Packet> packets) {
  std::uint32_t by_page = 0;
  auto left = static_cast<std::uint32_t>(packets.size());
  for (Packet& packet : packets) {
    if (may_go(sending, packet.bytes())) {
      if (lies_here(packet) && (pool_.contains(packet.page) || borrow(sending, packet.page, left))) {
        by_page += send_page(sending, packet) ? 1 : 0;
      } else {
        send_copy(sending, packet);
      }
    }
    --left;
  }
  if (sending.granted != 0) {
    sending.lender->unlend(sending.granted);
  }
  return by_page;
}

void PoolBuffers::completed(const KernelRing<std::uint64_t>& completion, std::uint32_t count) {
  std::array<PageIndex, kBurst> home;
  const auto ring = completion.window();
  PageState* const states = states_.data();
  const std::uint64_t first = first_, state_count = states_.size();
  const std::uint32_t shift = page_shift_;
  std::uint32_t own = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint64_t index = ring[i] >> shift;
    const std::uint64_t slot = index - first;
    if (slot < state_count && states[slot] == PageState::kTx) [[likely]] {
      states[slot] = PageState::kNotHere;
      home[own++] = static_cast<PageIndex>(index);
    } else if (slot >= state_count && index < raw(PageIndex::kNone) &&
               foreign_.erase(static_cast<PageIndex>(index))) {
      strays_.push_back(static_cast<PageIndex>(index));
    } else [[unlikely]] {
      counters_.fault_tx_page.add(1);
    }
  }
  pool_.release_bulk(std::span(home.data(), own));
  if (!strays_.empty()) {
    send_home();
  }
}

// To the return ring of their own pool, whose owner may be another thread, a run of one pool's at a time.
// What does not fit waits for the next turn.
std::uint32_t PoolBuffers::send_home() {
  std::size_t kept = 0;
  std::uint32_t sent = 0;
  for (std::size_t at = 0; at < strays_.size();) {
    PoolDirectory::Entry* lender = lender_of(strays_[at]);
    SLUICE_CHECK(lender != nullptr, "page {} is of no pool", raw(strays_[at]));
    std::size_t end = at + 1;
    while (end < strays_.size() && lender->contains(strays_[end])) {
      ++end;
    }
    const auto count = static_cast<std::uint32_t>(end - at);
    PagePool& pool = lender->pool();
    lender->unlend(count);  // before: with its last page at home the pool may go
    const std::uint32_t fitted = pool.release_remote(std::span(strays_).subspan(at, count));
    if (fitted < count) {
      lender->lend_again(count - fitted);
    }
    for (at += fitted; at < end; ++at) {
      strays_[kept++] = strays_[at];
    }
    sent += fitted;
  }
  strays_.resize(kept);
  return sent;
}

bool PoolBuffers::reclaim() {
  for (std::uint32_t slot = 0; slot < states_.size(); ++slot) {
    if (states_[slot] != PageState::kNotHere) {
      states_[slot] = PageState::kNotHere;
      pool_.release(PageIndex{first_ + slot});
    }
  }
  foreign_.take_all([this](PageIndex page) { strays_.push_back(page); });
  send_home();
  return strays_.empty();
}

}  // namespace sluice
