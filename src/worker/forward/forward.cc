#include "worker/forward/forward.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "port/copy_bytes.h"
#include "worker/forward/switch.h"
#include "worker/port_meter.h"

namespace sluice {

namespace {

// Without a branch per packet: nearly every burst goes to one port.
bool goes_to_one_port(std::span<const Packet> burst) {
  std::uint32_t difference = 0;
  for (const Packet& packet : burst) {
    difference |= static_cast<std::uint32_t>(raw(packet.port) ^ raw(burst.front().port));
  }
  return difference == 0;
}

// How many packets, from the front, are `bytes` at most; at least one.
std::size_t fitting(std::span<const Packet> packets, std::uint32_t bytes) {
  std::size_t count = 1;
  std::uint64_t sum = packets.front().bytes();
  while (count < packets.size() && (sum += packets[count].bytes()) <= bytes) {
    ++count;
  }
  return count;
}

}  // namespace

Forwarder::Forwarder() {
  group_of_.fill(kNoGroup);
  roused_.reserve(kMaxPorts);
  // Not touched before it is needed, so it costs nothing until then.
  void* memory =
      ::mmap(nullptr, kTurnBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  SLUICE_CHECK(memory != MAP_FAILED, "no address space: errno {}", errno);
  together_ = Mapping::adopt(memory, kTurnBytes);
  ::madvise(memory, kTurnBytes, MADV_DONTDUMP);  // frames
}

std::span<Packet> Forwarder::forward(const BurstInfo& info, std::span<Packet> burst,
                                     const LanesByPort& by_port, const Switch* switching) {
  if (burst.empty()) {
    return burst;
  }
  SLUICE_CHECK(burst.size() <= kBurst, "burst of {}", burst.size());
  if (goes_to_one_port(burst)) {
    raw(burst.front().port) < kMaxPorts ? deliver(info, burst, by_port)
                                        : flood(info, burst, by_port, switching);
    return burst;
  }
  const std::span<Packet> grouped = std::span(grouped_).first(burst.size());
  if (!forward_groups(info, burst, grouped, by_port)) [[unlikely]] {
    forward_runs(info, burst, by_port, switching);
  }
  return grouped;
}

// A counting sort: stable, so packets of one port keep their order; linear also when every packet has its own
// port.
bool Forwarder::forward_groups(const BurstInfo& info, std::span<const Packet> burst,
                               std::span<Packet> grouped, const LanesByPort& by_port) {
  std::array<std::uint8_t, kBurst> group;  // of each packet
  std::array<std::uint16_t, kBurst> slot;  // of each group's entry in group_of_
  std::array<std::uint8_t, kBurst> size;   // of each group
  std::uint8_t group_count = 0;
  for (std::size_t i = 0; i < burst.size(); ++i) {
    std::uint16_t port = std::min(raw(burst[i].port), kMaxPorts);
    std::uint8_t found = group_of_[port];
    if (found == kNoGroup) {
      found = group_count++;
      group_of_[port] = found;
      slot[found] = port;
      size[found] = 0;
    }
    group[i] = found;
    ++size[found];
  }

  const bool all_in_table = group_of_[kMaxPorts] == kNoGroup;
  std::array<std::uint8_t, kBurst> next;  // where the next packet of each group goes in `grouped`
  std::uint8_t begin = 0;
  for (std::uint8_t g = 0; g < group_count; ++g) {
    group_of_[slot[g]] = kNoGroup;
    next[g] = begin;
    begin = static_cast<std::uint8_t>(begin + size[g]);
  }
  if (!all_in_table) [[unlikely]] {
    return false;
  }
  for (std::size_t i = 0; i < burst.size(); ++i) {
    grouped[next[group[i]]++] = burst[i];
  }

  std::span<Packet> rest = grouped;
  for (std::uint8_t g = 0; g < group_count; ++g) {
    deliver(info, rest.first(size[g]), by_port);
    rest = rest.subspan(size[g]);
  }
  return true;
}

// A burst of which some is flooded, piece by piece: what a port gets by its own name and what it hears come
// to it in the order in which they were sent.
void Forwarder::forward_runs(const BurstInfo& info, std::span<const Packet> burst, const LanesByPort& by_port,
                             const Switch* switching) {
  const auto in_table = [](const Packet& packet) { return raw(packet.port) < kMaxPorts; };
  for (std::size_t at = 0; at < burst.size();) {
    const bool table = in_table(burst[at]);
    std::size_t end = at + 1;
    while (end < burst.size() && in_table(burst[end]) == table) {
      ++end;
    }
    const std::span<const Packet> run = burst.subspan(at, end - at);
    const std::span<Packet> grouped = std::span(grouped_).subspan(at, run.size());
    if (table) {
      forward_groups(info, run, grouped, by_port);
    } else {
      std::ranges::copy(run, grouped.begin());
      flood(info, run, by_port, switching);
    }
    at = end;
  }
}

inline void Forwarder::copy_in(const BurstInfo& info, std::span<Packet> packets, Lane& to) {
  if (info.most_segments > to.accepts().segments) [[unlikely]] {
    put_together(packets, to.accepts().segments);
  }
  to.copy_in(info, packets);
}

// One copy more. What a source gives in a turn is at most kTurnBytes, so there is room for all of it.
void Forwarder::put_together(std::span<Packet> packets, std::uint32_t most_segments) {
  std::size_t used = 0;
  for (std::size_t i = 0; i < packets.size(); ++i) {
    Packet& packet = packets[i];
    if (packet.segments().size() <= most_segments) {
      continue;
    }
    SLUICE_CHECK(packet.body_bytes <= together_.bytes() - used, "a burst of more than {} bytes", kTurnBytes);
    std::byte* const to = together_.data() + used;
    copy_segments(to, packet.segments());
    extras_[i] = {.segments = {}, .offload = packet.offload()};
    packet.body = to;
    packet.extra = &extras_[i];
    used += packet.body_bytes;
    linearised_.add(1);
  }
}

// A lane that got something is polled in this turn, and not at rest for a while.
inline void Forwarder::note_delivery(Lane& lane) {
  lane.activity.quiet_turns = 0;
  if (lane.activity.resting && !lane.activity.delivered) [[unlikely]] {
    lane.activity.delivered = true;
    roused_.push_back(&lane);
  }
}

inline Lane* Forwarder::reader(PortId port, std::size_t packets, const LanesByPort& by_port) {
  Lane* lane = by_port[raw(port)];
  if (lane == nullptr) {
    no_reader_[raw(port)].add(packets);
    drop_no_reader_.add(packets);
  }
  return lane;
}

// From here on the worker works for `port`. False: the port has used up its budget. A copy may wait for
// memory that is a guest's: it is charged to that guest's port, and where both ends are such, to neither.
inline bool Forwarder::admits(const BurstInfo& info, PortId port, std::size_t packets, const Lane& to,
                              const LanesByPort& by_port) {
  if (meter_->skips(port)) [[unlikely]] {
    meter_->count_dropped(port, packets);
    return false;
  }
  const Lane* from = info.port == PortId::kKernel || info.port == port ? nullptr : by_port[raw(info.port)];
  const bool reads_peers = from != nullptr && from->activity.peers_memory;
  if (!reads_peers) [[likely]] {
    meter_->enter(raw(port), PortMeter::kOwn);
  } else if (to.activity.peers_memory) {
    meter_->enter(raw(port), raw(info.port));
  } else {
    meter_->enter(raw(info.port), PortMeter::kOwn);
  }
  return true;
}

void Forwarder::deliver(const BurstInfo& info, std::span<Packet> group, const LanesByPort& by_port) {
  const PortId port = group.front().port;
  if (port == PortId::kDrop) {
    drop_verdict_.add(group.size());
    return;
  }
  Lane* lane = reader(port, group.size(), by_port);
  if (lane == nullptr) {
    return;
  }
  if (meter_ != nullptr && !admits(info, port, group.size(), *lane, by_port)) {
    return;
  }
  groups_.add(1);
  // D1: a page never leaves its domain. A burst that a peer sends has no pages (its frames lie in the peer's
  // own memory), so there is nothing to hand over even where the destination is of the sender's domain.
  const bool hands_over = info.domain == lane->accepts().pages_of && group.front().page != PageIndex::kNone;
  hands_over ? lane->hand_over(info, group) : copy_in(info, group, *lane);
  note_delivery(*lane);
}

// Of packets that are for no port of the table: kFlood, or a number that cannot be.
void Forwarder::flood(const BurstInfo& info, std::span<const Packet> group, const LanesByPort& by_port,
                      const Switch* switching) {
  std::size_t count = 0;
  for (const Packet& packet : group) {
    if (packet.port == PortId::kFlood && switching != nullptr) {
      flood_[count++] = packet;
    }
  }
  drop_bad_port_.add(group.size() - count);
  if (count == 0) {
    return;
  }
  const std::uint32_t audience = switching->audience(info);
  const std::size_t allowed =
      std::min<std::size_t>(std::max(kMaxFloodCopies / audience, 1u),
                            fitting(std::span(flood_).first(count), kMaxFloodBytes / audience));
  if (count > allowed) {
    drop_flood_limit_.add(count - allowed);
    count = allowed;
  }
  flooded_.add(count);
  const auto deliver_copies = [&](PortId port, std::uint64_t which) {
    std::size_t heard = 0;
    for (; which != 0; which &= which - 1) {
      copies_[heard] = flood_[static_cast<std::size_t>(std::countr_zero(which))];
      copies_[heard++].port = port;
    }
    Lane* lane = reader(port, heard, by_port);
    if (lane != nullptr && (meter_ == nullptr || admits(info, port, heard, *lane, by_port))) {
      groups_.add(1);
      flood_copies_.add(heard);
      copy_in(info, std::span(copies_).first(heard), *lane);
      note_delivery(*lane);
    }
  };
  drop_reserved_.add(switching->flood(info, std::span(flood_).first(count), deliver_copies));
}

std::uint64_t Forwarder::no_reader(PortId port) const {
  SLUICE_CHECK(raw(port) < kMaxPorts, "port {}", raw(port));
  return no_reader_[raw(port)].value();
}

void Forwarder::visit(CounterVisitor& visitor) const {
  visitor.counter("groups", groups_.value());
  visitor.counter("flooded", flooded_.value());
  visitor.counter("flood_copies", flood_copies_.value());
  visitor.counter("linearised", linearised_.value());
  visitor.counter("drop_verdict", drop_verdict_.value());
  visitor.counter("drop_bad_port", drop_bad_port_.value());
  visitor.counter("drop_flood_limit", drop_flood_limit_.value());
  visitor.counter("drop_reserved", drop_reserved_.value());
  visitor.counter("drop_no_reader", drop_no_reader_.value());
}

}  // namespace sluice
