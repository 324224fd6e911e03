#include "port/fake/fake.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "port/copy_bytes.h"

namespace sluice {

namespace {

void copy_in_frame(const Packet& packet, FakeFrame& frame) {
  SLUICE_CHECK(packet.bytes() <= kFakePageBytes, "frame of {} bytes", packet.bytes());
  copy_frame(frame.copy.data(), packet);
  frame.page = PageIndex::kNone;
  frame.bytes = static_cast<std::uint16_t>(packet.bytes());
}

bool push(FakeRing<FakeFrame>& ring, PortId port, std::span<const std::byte> bytes) {
  FakeFrame* frame = ring.reserve();
  if (frame == nullptr) {
    return false;
  }
  SLUICE_CHECK(bytes.size() <= kFakePageBytes, "frame of {} bytes", bytes.size());
  frame->port = port;
  frame->page = PageIndex::kNone;
  frame->bytes = static_cast<std::uint16_t>(bytes.size());
  std::ranges::copy(bytes, frame->copy.begin());
  ring.publish();
  return true;
}

}  // namespace

FakeArena::FakeArena(DomainId domain, std::uint32_t page_count)
    : domain_(domain), memory_(std::size_t{page_count} * kFakePageBytes), out_(page_count) {
  for (std::uint32_t page = page_count; page-- > 0;) {
    free_.push_back(PageIndex{page});
  }
}

PageIndex FakeArena::alloc() {
  if (free_.empty()) {
    return PageIndex::kNone;
  }
  const PageIndex page = free_.back();
  free_.pop_back();
  out_[raw(page)] = true;
  out_count_.set(out_count_.value() + 1);
  return page;
}

void FakeArena::release(PageIndex page) {
  SLUICE_CHECK(raw(page) < out_.size() && out_[raw(page)], "page {} of {} is not out", raw(page),
               out_.size());
  out_[raw(page)] = false;
  out_count_.set(out_count_.value() - 1);
  free_.push_back(page);
}

FakeDoorbell::FakeDoorbell() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  SLUICE_CHECK(bool{event_}, "eventfd: errno {}", errno);
}

void FakeDoorbell::quiet() {
  wanted_.store(false);
  std::uint64_t count;
  [[maybe_unused]] const auto bytes = ::read(event_.get(), &count, sizeof count);
}

void FakeDoorbell::ring() {
  if (wanted_.exchange(false)) {
    const std::uint64_t one = 1;
    SLUICE_CHECK(::write(event_.get(), &one, sizeof one) == sizeof one, "eventfd: errno {}", errno);
    rung_.fetch_add(1);
  }
}

FakeQueue::FakeQueue(FakeArena& arena, const Options& options)
    : Lane({.pages_of = arena.domain()}),
      arena_(arena),
      options_(options),
      wire_(options.ring),
      sent_(options.ring) {
  on_their_way_.reserve(arena.page_count());
}

bool FakeQueue::arrive(PortId port, std::span<const std::byte> frame) {
  const bool fits = push(wire_, port, frame);
  doorbell_.ring();
  return fits;
}

std::optional<std::vector<std::byte>> FakeQueue::next_sent() {
  if (sent_.size() == 0) {
    return std::nullopt;
  }
  const FakeFrame& frame = sent_.at(0);
  std::vector<std::byte> bytes(frame.copy.begin(), frame.copy.begin() + frame.bytes);
  sent_.pop();
  return bytes;
}

void FakeQueue::hand_over(const BurstInfo&, std::span<Packet> packets) {
  for (Packet& packet : packets) {
    FakeFrame* frame = sent_.reserve();
    if (frame == nullptr) {
      drop_tx_ring_full.add(1);
      continue;
    }
    copy_in_frame(packet, *frame);  // this is the wire: the frame has left
    sent_.publish();
    on_their_way_.push_back(packet.page);
    packet.page = PageIndex::kNone;
    zero_copy.add(1);
  }
}

void FakeQueue::copy_in(const BurstInfo&, std::span<Packet> packets) {
  for (const Packet& packet : packets) {
    FakeFrame* frame = sent_.reserve();
    if (frame == nullptr) {
      drop_tx_ring_full.add(1);
      continue;
    }
    copy_in_frame(packet, *frame);
    sent_.publish();
    copied.add(1);
  }
}

std::uint32_t FakeQueue::poll() {
  const auto count = static_cast<std::uint32_t>(std::min<std::size_t>(on_their_way_.size(), kBurst));
  for (std::uint32_t i = 0; i < count; ++i) {
    arena_.release(on_their_way_.back());
    on_their_way_.pop_back();
  }
  return count;
}

bool FakeQueue::prepare_sleep() {
  doorbell_.ask();
  return wire_.size() > 0 || !on_their_way_.empty();
}

std::uint32_t FakeQueue::burst(std::span<Packet> packets, BurstInfo& info) {
  const auto wanted = std::min<std::size_t>({packets.size(), kBurst, wire_.size()});
  std::uint32_t count = 0;
  while (count < wanted) {
    const PageIndex page = arena_.alloc();
    if (page == PageIndex::kNone) {
      break;
    }
    const FakeFrame& frame = wire_.at(count);
    std::copy_n(frame.copy.begin(), frame.bytes, arena_.page(page));
    packets[count++] =
        Packet{.body = arena_.page(page), .body_bytes = frame.bytes, .page = page, .port = frame.port};
  }
  if (count > 0) {
    wire_.pop(count);
    info.domain = arena_.domain();
    info.nic = options_.nic;
    info.queue = options_.queue;
  }
  return count;
}

void FakeQueue::done(std::span<const Packet> packets) {
  for (const Packet& packet : packets) {
    if (packet.page != PageIndex::kNone) {
      arena_.release(packet.page);
    }
  }
}

FakeLane::FakeLane(FakeArena* arena, const Options& options)
    : Lane({.pages_of = options.domain}),
      arena_(arena),
      options_(options),
      inbox_(options.ring),
      back_(arena != nullptr ? arena->page_count() : 1),
      outbox_(options.ring),
      lent_(arena != nullptr ? arena->page_count() : 0) {
  SLUICE_CHECK(arena == nullptr || arena->domain() == options.domain, "D1: arena of another domain");
}

std::optional<FakeLane::Frame> FakeLane::take() {
  if (inbox_.size() == 0) {
    return std::nullopt;
  }
  const FakeFrame& entry = inbox_.at(0);
  const std::byte* begin =
      entry.page == PageIndex::kNone ? entry.copy.data() : arena_->page(entry.page) + entry.page_offset;
  Frame frame{.bytes = {begin, begin + entry.bytes}, .page = entry.page};
  inbox_.pop();
  return frame;
}

bool FakeLane::give_back(PageIndex page) {
  PageIndex* entry = back_.reserve();
  if (entry != nullptr) {
    *entry = page;
    back_.publish();
  }
  doorbell_.ring();
  return entry != nullptr;
}

bool FakeLane::send(PortId to, std::span<const std::byte> frame) {
  const bool fits = push(outbox_, to, frame);
  doorbell_.ring();
  return fits;
}

// Room for one more frame, or null after counting why there is none.
FakeFrame* FakeLane::admit() {
  if (abandoned_.load()) {
    drop_no_reader.add(1);
    return nullptr;
  }
  FakeFrame* frame = inbox_.reserve();
  if (frame == nullptr) {
    drop_ring_full.add(1);
  }
  return frame;
}

void FakeLane::hand_over(const BurstInfo&, std::span<Packet> packets) {
  for (Packet& packet : packets) {
    if (lent_count_ == options_.page_limit) {
      drop_page_limit.add(1);
      continue;
    }
    FakeFrame* frame = admit();
    if (frame == nullptr) {
      continue;
    }
    SLUICE_CHECK(!lent_[raw(packet.page)], "page {} is lent already", raw(packet.page));
    frame->page = packet.page;
    frame->page_offset = static_cast<std::uint16_t>(packet.body - arena_->page(packet.page));
    frame->bytes = static_cast<std::uint16_t>(packet.body_bytes);
    inbox_.publish();
    lent_[raw(packet.page)] = true;
    ++lent_count_;
    packet.page = PageIndex::kNone;
    zero_copy.add(1);
  }
}

void FakeLane::copy_in(const BurstInfo&, std::span<Packet> packets) {
  for (const Packet& packet : packets) {
    if (FakeFrame* frame = admit(); frame != nullptr) {
      copy_in_frame(packet, *frame);
      inbox_.publish();
      copied.add(1);
    }
  }
}

std::uint32_t FakeLane::burst(std::span<Packet> packets, BurstInfo& info) {
  if (abandoned_.load()) {
    return 0;
  }
  const auto count =
      static_cast<std::uint32_t>(std::min<std::size_t>({packets.size(), kBurst, outbox_.size()}));
  for (std::uint32_t i = 0; i < count; ++i) {
    const FakeFrame& frame = outbox_.at(i);
    const std::uint32_t head_bytes = std::min<std::uint32_t>(frame.bytes, kMaxHead);
    std::copy_n(frame.copy.begin(), head_bytes, heads_[i].begin());
    packets[i] = Packet{.body = frame.copy.data() + head_bytes,
                        .head = heads_[i].data(),
                        .body_bytes = frame.bytes - head_bytes,
                        .head_bytes = static_cast<std::uint16_t>(head_bytes),
                        .port = frame.port};
  }
  info.uplink = count > 0 ? packets.front().port : PortId::kDrop;
  return count;
}

void FakeLane::done(std::span<const Packet> packets) {
  outbox_.pop(static_cast<std::uint32_t>(packets.size()));
  tx_packets.add(packets.size());
}

bool FakeLane::is_lent(PageIndex page) const {
  return raw(page) < lent_.size() && lent_[raw(page)];
}

std::uint32_t FakeLane::poll() {
  polls.add(1);
  if (abandoned_.load()) {
    for (std::uint32_t page = 0; page < lent_.size() && lent_count_ > 0; ++page) {
      if (lent_[page]) {
        lent_[page] = false;
        --lent_count_;
        arena_->release(PageIndex{page});
      }
    }
    return 0;
  }
  const std::uint32_t count = std::min(back_.size(), kBurst);
  for (std::uint32_t i = 0; i < count; ++i) {
    const PageIndex page = back_.at(i);
    if (!is_lent(page)) {
      fault_forged.add(1);
      continue;
    }
    lent_[raw(page)] = false;
    --lent_count_;
    arena_->release(page);
  }
  back_.pop(count);
  return count;
}

bool FakeLane::prepare_sleep() {
  doorbell_.ask();
  return abandoned_.load() ? lent_count_ > 0 : outbox_.size() > 0 || back_.size() > 0;
}

}  // namespace sluice
